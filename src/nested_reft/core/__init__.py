"""The method: tensors in, tensors out. It imports no other room of the package."""
