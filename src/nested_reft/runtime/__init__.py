"""Files, progress, GPUs, manifest, seeds, clocks, errors, sources. It imports no other room of the package."""
