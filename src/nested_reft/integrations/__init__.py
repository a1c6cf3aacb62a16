"""Nested rollouts inside other projects' trainers and engines. It imports `core` and `engine` only."""
