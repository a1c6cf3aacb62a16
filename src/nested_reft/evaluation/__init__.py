"""Measurements: accuracy, throughput, bias and variance of the gradients, and the same by enumeration."""
