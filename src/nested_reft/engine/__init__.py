"""What makes it fast: sampling, decoding and log-probabilities. It imports `core` only."""
