"""The soak: a sweep under faults must end bit for bit as an undisturbed one does.

Run it by `make soak`. sweep: what is run; living: its processes; faults: what is done
to them; inside/: faults from within; driver: the loop; comparison: what must be true at
the end; report: the table.
"""
