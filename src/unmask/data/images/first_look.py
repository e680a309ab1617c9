"""A look at single images before anything starts. Imports no torch."""

import numpy as np

from unmask.data.images.arrays import is_array, read_array
from unmask.data.images.depth import Ranges, UnknownRangeError, to_shares
from unmask.data.images.pillow import PILLOW_MODES, decode_with_pillow
from unmask.data.images.unreadable import short_reason
from unmask.data.listing.stores import Store


def find_fault(
    store: Store, i: int, name: str, channels: int, ranges: Ranges | None
) -> str | None:
    """Return why image i of a store cannot be read, in a line; None where it can.

    A range that is not known is no fault of an image.
    """
    try:
        content = store.read(i)
        if not isinstance(content, bytes) or (content and is_array(content, name)):
            values = read_array(content, name, channels)
        elif channels in PILLOW_MODES:
            values = decode_with_pillow(content, channels)
        else:
            return f"image files have 1, 3 or 4 channels, not {channels}"
        if ranges or values.dtype != np.uint8:
            to_shares(values, ranges)
    except UnknownRangeError:
        return None
    # a full memory is not the file's fault
    except MemoryError:
        return None
    except Exception as error:
        return short_reason(error)
    return None
