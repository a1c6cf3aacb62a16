"""Intervals and comparisons, as pure functions."""
