"""The soak: a sweep under one fault after another must end with what an undisturbed one ends with, bit for bit.

`make soak`; sweep: what is run; living: its processes; faults: what is done to them; inside/: faults from within;
driver: the loop; comparison: what must be true at the end; report: the table.
"""
