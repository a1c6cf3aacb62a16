"""A policy on disk, its prompts, and what samples it."""
