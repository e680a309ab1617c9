"""Pixels of any depth and sign: which range they have, and their shares of it.

Images of 8 bits stay bytes, unless data.range is set. The values of all others become
float32 shares of a range, rounded once: 0 is its lower end, 1 its upper end.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

# (lower end, upper end) of each channel, or one pair for all of them
Ranges = tuple[tuple[float, float], ...]
# bytes, or shares of the range
Pixels = UInt8[np.ndarray, "_H _W _C"] | Float32[np.ndarray, "_H _W _C"]
# what arithmetic in float32 may add to a share of 1
ROUNDING = 8 * float(np.finfo(np.float32).eps)
# below this share of the range the values are warned of
MIN_FILLED = 0.1


class UnknownRangeError(ValueError):
    """Values have no range by themselves, and none is given."""


def type_range(dtype: np.dtype) -> tuple[float, float] | None:
    """Return the range that values of a type have by themselves; None: nobody knows.

    Floats are shares of white.
    """
    if dtype == np.bool_ or np.issubdtype(dtype, np.floating):
        return 0.0, 1.0
    # bytes in either order
    if dtype.newbyteorder("=") in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(dtype).max)
    return None


def to_shares(
    array_HWC: Shaped[np.ndarray, "H W C"], ranges: Ranges | None
) -> Float32[np.ndarray, "H W C"]:
    """Return the shares of the range, of each channel's or of the type's own.

    What lies outside is clipped. Raises ValueError where the range is not known, or a
    value is not a number.
    """
    dtype = array_HWC.dtype
    if not np.issubdtype(dtype, np.bool_) and not _is_real(dtype):
        raise ValueError(f"it holds {dtype}; save integers or floats")
    if np.issubdtype(dtype, np.floating) and np.isnan(array_HWC).any():
        raise ValueError("it holds NaN; fill these pixels with a number")
    if ranges is None:
        ranges = (_own_range(array_HWC),)
    low_C, high_C = np.array(ranges, dtype=np.float64).T
    shares_HWC = (array_HWC - low_C) / (high_C - low_C)
    return np.clip(shares_HWC, 0, 1).astype(np.float32)


def _is_real(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)


def _own_range(array_HWC: Shaped[np.ndarray, "H W C"]) -> tuple[float, float]:
    """Return the type's range; UnknownRangeError where the values cannot have it."""
    own = type_range(array_HWC.dtype)
    low, high = float(array_HWC.min()), float(array_HWC.max())
    if own is None or low < own[0] - ROUNDING or high > own[1] + ROUNDING:
        raise UnknownRangeError(
            f"its {array_HWC.dtype} values reach from {low:g} to {high:g}, and one"
            " image does not tell their range; set data.range=[low,high]:"
            " src/measure.py finds it"
        )
    return own


def narrow_note(
    low: float, high: float, ranges: Ranges | None, dtypes: Iterable[np.dtype]
) -> str | None:
    """Say where values from low to high fill less than a tenth of their range.

    dtypes: those of the values, whose own range counts unless `ranges` are given.
    """
    known = list(ranges or filter(None, map(type_range, dtypes)))
    if not known:
        return None
    bottom = min(pair[0] for pair in known)
    top = max(pair[1] for pair in known)
    filled = (min(high, top) - max(low, bottom)) / (top - bottom)
    if filled >= MIN_FILLED:
        return None
    return (
        f"the images' values, {low:g} to {high:g}, fill {max(0, filled):.1%} of the"
        f" range from {bottom:g} to {top:g}"
    )


def to_bytes(pixels: Pixels) -> UInt8[np.ndarray, "H W C"]:
    """Round shares to 8 bits; bytes stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(pixels * 255).astype(np.uint8)
