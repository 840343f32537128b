"""Benchmarks against what others reach, side by side: `python -m tests.bench NAME [--json]`."""
