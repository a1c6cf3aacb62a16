"""Problems, data sets, prompts, grading, and models on disk."""
