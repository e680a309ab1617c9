"""Which images there are; imports no torch."""
