"""Find which images there are; nothing in here imports torch."""
