"""The replay of a step that was not finite, for src/replay.py."""
