"""The method inside other people's engines and trainers. It imports `core` and `engine` only."""
