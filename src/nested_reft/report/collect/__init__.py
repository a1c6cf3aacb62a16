"""Result files into tidy tables."""
