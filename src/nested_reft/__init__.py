"""Nested-ReFT: reinforced fine-tuning whose rollouts are written by a subset of the target model's own layers."""

__version__ = "0.1.0"
