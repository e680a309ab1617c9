"""Bad images (which cannot be read), and which images may be their substitutes.

A substitute is a function of the sample alone: it does not depend on chance, on
workers, or on where the images are held.
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from unmask.data.images.arrays import Content
from unmask.data.images.pillow import MAX_PIXELS
from unmask.data.listing.stores import Store

# errors of this process rather than of the file: other images would meet them too
PROCESS_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# errors from which a network disk may recover
TRANSIENT_FAULTS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET)
RETRY_PAUSES = (0.1, 1.0)  # seconds before each further attempt
# images that are tried as a substitute: one by one beside the bad one, and in all
NUM_NEIGHBOURS = 16
MAX_CANDIDATES = 256


class BadImage(NamedTuple):
    """An image that could not be read, so that a substitute was used."""

    id: int
    name: str
    reason: str


class BadImageError(ValueError):
    """A file cannot be read as an image of the wanted kind."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(
            f"{printable(name)} cannot be read as an image ({reason}); mend or remove"
            " the file"
        )
        self.name = name
        self.reason = str(reason)


def read_content(store: Store, i: int) -> Content:
    """Read what a store holds of sample i. Raises BadImageError if it cannot."""
    try:
        return store.read(i)
    except OSError as error:
        return read_again(store, i, error)


def read_again(store: Store, i: int, error: OSError) -> Content:
    """Read sample i again if the disk failed in a way that may pass.

    Raises BadImageError if it still cannot be read.
    """
    for pause in RETRY_PAUSES:
        if error.errno not in TRANSIENT_FAULTS:
            break
        time.sleep(pause)
        try:
            return store.read(i)
        except OSError as later:
            error = later
    raise to_bad_image_error(store.name(i), error) from error


def to_bad_image_error(name: str, error: OSError) -> BadImageError:
    """Blame the file; raise the error itself if the fault is this process's."""
    if error.errno in PROCESS_FAULTS:
        raise error
    return BadImageError(name, error.strerror or error)


def substitutes(i: int, count: int) -> Iterator[int]:
    """Yield the samples that may be used in place of sample i, in order.

    Neighbours come first, since they mostly have the same class; then samples at
    doubling distances, since a whole class may be bad; then the rest.
    """
    near = range(1, NUM_NEIGHBOURS + 1)
    doubling = [NUM_NEIGHBOURS << k for k in range(1, count.bit_length())]
    rest = range(NUM_NEIGHBOURS + 1, MAX_CANDIDATES)
    # a dict keeps the first of equal steps, in order
    steps = dict.fromkeys([*near, *doubling, *rest])
    yield from ((i + k) % count for k in steps if k < count)


def no_substitute_error(bad: Sequence[BadImage]) -> ValueError:
    """Describe the images that were tried, and ask about the disk if it failed."""
    disk_errors = {os.strerror(number) for number in errno.errorcode}
    hint = "; is the disk there?" if bad[0].reason in disk_errors else ""
    first = f"{printable(bad[0].name)} ({bad[0].reason})"
    return ValueError(
        f"none of {len(bad)} images in a row can be read, the first is {first}{hint}"
    )


def printable(name: str) -> str:
    """Escape what a terminal cannot print, so that a name fits on one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in name
    )


def short_reason(error: Exception) -> str:
    """Return one line that says why an image cannot be read."""
    if isinstance(error, BadImageError):
        return error.reason
    # Pillow's own message shows the address of a buffer instead of a name
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"its header claims more than the {MAX_PIXELS:,} pixels that are allowed"
    return " ".join(str(error).split()) or type(error).__name__
