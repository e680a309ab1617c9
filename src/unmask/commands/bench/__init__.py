"""src/bench.py: the step, the loader, and what stands around them."""
