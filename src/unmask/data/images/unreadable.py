"""Images that cannot be read, and which others stand in for them: a function of the sample alone, never of chance,
of workers or of where the images are held.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from unmask.data.listing.stores import Store

Read = TypeVar("Read")

# faults of this process, which other images would meet too
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# what a disk over a network may get over
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET)
PAUSES = (0.1, 1.0)  # seconds before it is asked again
# of any image, by its header: Pillow's own bound on decompression bombs
MAX_PIXELS = 178_956_970
# neighbours that are tried one by one, and images in all, for one that has to stand in
NEAR, MOST = 16, 256


class Bad(NamedTuple):
    """An image that could not be read, in whose place another stands."""

    id: int
    name: str
    reason: str


class BadImageError(ValueError):
    """It cannot be read as an image of the wanted kind: its name and why."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f"{shown(name)} cannot be read as an image ({reason}); mend or remove the"
            " file"
        )
        self.name, self.reason = name, str(reason)


def patiently(read: Callable[[int], Read], i: int) -> Read:
    """What is read for a sample; a file is not bad because its disk was busy."""
    for pause in PAUSES:
        try:
            return read(i)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            time.sleep(pause)
    return read(i)


def content_of(store: Store, i: int) -> bytes | UInt8[np.ndarray, "H W C"]:
    """What a store has of a sample. Raises BadImageError where its file gives nothing."""
    try:
        return patiently(store.read, i)
    except OSError as error:
        raise unreadable(store.name(i), error) from error


def unreadable(name: str, error: OSError) -> BadImageError:
    """What is said of a file; raises the error itself where no file is to blame."""
    if error.errno in OURS:
        raise error
    return BadImageError(name, error.strerror or error)


def candidates(i: int, count: int) -> Iterator[int]:
    """The sample, then those that may stand in for it, in order: its neighbours, mostly of its class; then farther
    and farther ones, since a class may be bad as a whole.
    """
    yield i
    far = [NEAR << k for k in range(1, count.bit_length())]
    steps = dict.fromkeys([*range(1, NEAR + 1), *far, *range(NEAR + 1, MOST)])
    yield from ((i + k) % count for k in steps if k < count)


def none_of(bad: Sequence[Bad]) -> ValueError:
    disks = {os.strerror(number) for number in errno.errorcode}
    ask = "; is the disk there?" if bad[0].reason in disks else ""
    first = f"{shown(bad[0].name)} ({bad[0].reason})"
    return ValueError(
        f"none of {len(bad)} images in a row can be read, the first is {first}{ask}"
    )


def shown(name: str) -> str:
    """A name that fits a line of any terminal: what cannot be printed is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in name
    )


def reason_of(error: Exception) -> str:
    """In a line; Pillow's word for an unknown format is the address of a buffer."""
    if isinstance(error, BadImageError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"its header tells of more than the {MAX_PIXELS:,} pixels that are allowed"
        )
    return " ".join(str(error).split()) or type(error).__name__
