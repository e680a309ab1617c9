"""Benchmarks of src/bench.py: the training step, its callbacks, the loader."""
