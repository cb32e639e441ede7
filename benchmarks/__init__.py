"""Measurements of the promises about speed and memory: `python -m benchmarks.daemon`."""
