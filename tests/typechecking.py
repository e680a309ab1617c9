"""The checker behind the import hook: beartype, for which an int is a float as it is for mypy (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
