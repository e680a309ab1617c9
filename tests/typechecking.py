"""The checker behind the import hook: beartype, for which an int is a float as it is for mypy (PEP 484).

It draws which item of a list it looks at. From the global generator those draws, in the thread that writes checkpoints,
say, would fall among those of a library that was lent it in a state of ours: it gets a generator of its own.
"""

import random

of_all = random.getrandbits
# which beartype takes when it is imported
random.getrandbits = random.Random(0).getrandbits
from beartype import BeartypeConf, beartype

random.getrandbits = of_all

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
