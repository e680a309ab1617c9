"""Contestants of the step benchmark: ours and those of others, each in its process."""
