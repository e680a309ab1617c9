"""All that waits for a GPU, measured by one command: src/bench.py gpu."""
