"""The type checker behind the import hook: beartype, where an int is a float (PEP 484).

beartype draws at random which item of a list it checks. It gets its own generator: from
the global one it would, for instance in the thread that writes checkpoints, disturb the
draws of a library inside `unmask.randomness.seeded_generators`.
"""

import random

original = random.getrandbits
# beartype looks this function up when it is imported
random.getrandbits = random.Random(0).getrandbits
from beartype import BeartypeConf, beartype

random.getrandbits = original

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
