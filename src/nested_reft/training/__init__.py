"""`step` is the algorithm; `run` is the loop around it."""
