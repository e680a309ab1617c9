"""src/replay.py: a failed step made again."""
