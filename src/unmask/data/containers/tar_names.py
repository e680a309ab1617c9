"""Names of images as members of tars, where WebDataset ends a key at the first point.

src/prepare.py writes keys without points, which stand for the same names in a folder.
"""

import re
from collections import Counter

# What a percent sign begins in an encoded key; %_ at its end counts earlier samples of
# the same key, as of a.jpg and a.png.
MUST_ENCODE = re.compile(r"\.|%2E|%25|%_$")
ENCODED = re.compile(r"%2E|%25|%_$")
REPEATS = re.compile(r"(?:%_)+$")


def split_key(name: str) -> tuple[str, str]:
    """Return WebDataset's key of a member, and the rest behind the point."""
    folder, slash, base = name.rpartition("/")
    key, _, fields = base.partition(".")
    return folder + slash + key, fields


class KeyEncoder:
    """Give each image of one tar a key of its own, without points."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def __call__(self, name: str) -> tuple[str, str]:
        """Return the key and the suffix under which an image of this name is stored."""
        stem, _, suffix = name.rpartition(".")
        folder, slash, base = stem.rpartition("/")
        if MUST_ENCODE.search(base):
            base = base.replace("%", "%25").replace(".", "%2E")
        key = folder + slash + base
        self.counts[key] += 1
        return key + "%_" * (self.counts[key] - 1), suffix


def decode_name(member: str) -> str:
    """Return the name of the image that is stored as this member."""
    if "%" not in member:
        return member
    stem, point, suffix = member.rpartition(".")
    folder, slash, base = stem.rpartition("/")
    if ENCODED.search(base):
        base = REPEATS.sub("", base).replace("%2E", ".").replace("%25", "%")
    return folder + slash + base + point + suffix
