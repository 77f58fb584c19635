"""Measurements of the kernels and of what they replace: `python -m benchmarks.run`."""
