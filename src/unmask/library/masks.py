"""Which patches a reconstruction hides: by a sampler's name, or as the caller says."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.config.schema import Config
from unmask.library.errors import InputError
from unmask.masking import (
    AnyMasking,
    GridMasking,
    Masking,
    masking_from_scores,
)
from unmask.randomness import Key
from unmask.training.build import SAMPLERS, build_masking, construct

MaskingName = Literal["random", "block", "grid"]
MaskingChoice = MaskingName | AnyMasking | np.ndarray | Tensor
# what a lattice of one patch in 2 x 2 hides
GRID_RATIO = 0.75


@dataclass(frozen=True)
class FixedMasking:
    """Hide the patches that the caller has marked.

    hidden_NL: a row for each image, or one row for all of them.
    """

    hidden_NL: Bool[Tensor, "N L"]

    def __call__(self, key: Key, ids_B: Int[Tensor, "B"], epoch: int) -> Masking:
        rows_B = ids_B if len(self.hidden_NL) > 1 else torch.zeros_like(ids_B)
        hidden_BL = self.hidden_NL[rows_B]
        num_keep = int((~hidden_BL[0]).sum())
        return masking_from_scores(hidden_BL.float(), num_keep)

    @property
    def is_even(self) -> bool:
        """Return whether all images have equally many hidden patches."""
        return len(self.hidden_NL.sum(dim=1).unique()) == 1


def choose_masking(
    config: Config, mask_ratio: float | None, masking: MaskingChoice | None, count: int
) -> AnyMasking:
    """Return the sampler of a reconstruction of `count` images.

    None stands for the pretraining's own. Raises InputError for values that hide
    nothing, everything, or another grid.
    """
    is_number = isinstance(mask_ratio, Real)
    if mask_ratio is not None and not (is_number and 0 < mask_ratio < 1):
        raise InputError(
            f"mask_ratio={mask_ratio!r}: give a share of the patches between 0 and 1,"
            " both excluded"
        )
    if masking is None or isinstance(masking, str):
        return _named_sampler(config, mask_ratio, masking)
    if mask_ratio is not None:
        raise InputError(
            f"mask_ratio={mask_ratio}: the given masking says itself what it hides;"
            " leave the ratio out"
        )
    if isinstance(masking, np.ndarray | Tensor | list | tuple):
        return _fixed(masking, config.grid, count)
    if not isinstance(masking, AnyMasking):
        raise InputError(
            f"masking: of type {type(masking).__name__}; give a name, an array of bools"
            " or a sampler"
        )
    return masking


def _named_sampler(
    config: Config, mask_ratio: float | None, name: str | None
) -> AnyMasking:
    """Return the sampler of that name; None: the pretraining's own."""
    ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    if name is None:
        sampler = build_masking(config.model_copy(update={"mask_ratio": ratio}))
    elif name in SAMPLERS:
        spec = {"_target_": SAMPLERS[name]}
        sampler = construct(spec, grid=config.grid, mask_ratio=ratio)
    else:
        raise InputError(
            f"masking={name}: give {', '.join(get_args(MaskingName))}, a sampler, or an"
            " array of rows x columns of patches, True where one is hidden"
        )
    if isinstance(sampler, GridMasking) and mask_ratio not in (None, GRID_RATIO):
        raise InputError(
            f"mask_ratio={mask_ratio}: grid masking hides three patches of four;"
            " leave it out, or give masking='random'"
        )
    return sampler


def _fixed(marked: Any, grid: tuple[int, int], count: int) -> FixedMasking:
    """Return the sampler of given marks; InputError for those of another form."""
    on_cpu = marked.detach().cpu() if isinstance(marked, Tensor) else marked
    try:
        array = np.asarray(on_cpu)
    # rows of different lengths; types and layouts that NumPy lacks
    except (ValueError, TypeError):
        array = np.empty(0, object)
    if array.shape not in (grid, (count, *grid)) or array.dtype != np.bool_:
        rows, columns = grid
        raise InputError(
            f"masking: {array.dtype} of shape {array.shape}; give bools of shape"
            f" ({rows}, {columns}), or ({count}, {rows}, {columns}) for {count} images"
        )
    hidden = torch.from_numpy(array.copy())
    hidden_NL = hidden.reshape(-1, math.prod(grid))
    hidden_N = hidden_NL.sum(dim=1)
    if (hidden_N == 0).any() or (hidden_N == math.prod(grid)).any():
        raise InputError(
            f"masking: it hides {hidden_N.tolist()[:8]} of {math.prod(grid)} patches;"
            " hide at least one and leave one visible in each image"
        )
    return FixedMasking(hidden_NL)
