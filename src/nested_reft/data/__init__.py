"""Problems, data sets and models from where they are: generated, hub, mirror, packages, GGUF files."""
