"""Which patches are hidden: by a sampler, or as they were painted by hand."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from unmask.commands.studio.models import StudioModel
from unmask.masking import AnyMasking, Masking, masking_from_scores
from unmask.randomness import make_key
from unmask.training import build
from unmask.training.build import SAMPLERS

# offered where a checkpoint was trained with it, whose squares it then has
COARSE = {"coarse": "unmask.coarse_masking.CoarseMasking"}
BRUSH = "brush"
# share of a patch, where two models have other grids
MIN_PAINTED = 0.5
Spec = dict[str, Any]


def collect_samplers(models: tuple[StudioModel, ...]) -> dict[str, Spec]:
    """Return samplers by the names that the page shows, the first model's first.

    What a checkpoint was trained with replaces the defaults of that sampler; one from a
    file of the user's goes by its own name.
    """
    names = {target: name for name, target in (SAMPLERS | COARSE).items()}
    trained: dict[str, Spec] = {}
    for model in models:
        if model.autoencoder:
            spec = model.autoencoder.config.masking.model_dump(by_alias=True)
            target = spec["_target_"]
            trained.setdefault(names.get(target, target), spec)
    usual = {name: {"_target_": target} for name, target in SAMPLERS.items()}
    return trained | {name: s for name, s in usual.items() if name not in trained}


def sample_masking(
    spec: Spec, grid: tuple[int, int], mask_ratio: float, seed: int
) -> Masking:
    """Hide patches of one picture, as src/reconstruct.py does of its first.

    Raises ValueError for a ratio that hides no patch or all of them.
    """
    sampler: AnyMasking = build.construct(spec, grid=grid, mask_ratio=mask_ratio)
    return sampler(make_key(seed, "picture"), torch.arange(1), 0)


def painted_masking(
    painted_hw: Bool[np.ndarray, "rows cols"], grid: tuple[int, int]
) -> Masking:
    """Hide the patches of which half or more is painted.

    painted: on this grid or on another, which then is laid over it. Raises ValueError
    where no patch is painted, or none is left.
    """
    # in whole numbers, so that half a patch is exactly half
    rows, columns = (
        _overlaps(*counts) for counts in zip(grid, painted_hw.shape, strict=True)
    )
    painted_area_hw = rows @ painted_hw @ columns.T
    share_hw = painted_area_hw / math.prod(painted_hw.shape)
    hidden_L = torch.from_numpy(share_hw >= MIN_PAINTED).flatten()
    hidden, patches = int(hidden_L.sum()), math.prod(grid)
    if not hidden:
        raise ValueError(
            f"{hidden} of {patches} patches are painted: paint over what to hide"
        )
    if hidden == patches:
        raise ValueError(
            f"all {patches} patches are painted: the encoder needs one that is visible"
        )
    return masking_from_scores(hidden_L[None].float(), patches - hidden)


def _overlaps(patches: int, cells: int) -> Int[np.ndarray, "patches cells"]:
    """Return how much of each patch along a side each of the painted cells covers.

    In units of which a patch has as many as there are cells.
    """
    starts_P1 = cells * np.arange(patches)[:, None]
    starts_C = patches * np.arange(cells)
    ends_PC = np.minimum(starts_P1 + cells, starts_C + patches)
    return (ends_PC - np.maximum(starts_P1, starts_C)).clip(0)


def read_marks(marks: str, grid: tuple[int, int]) -> Bool[np.ndarray, "rows cols"]:
    """Return which patches are marked by a 1 in a text of 0 and 1, in reading order."""
    marked = np.array([mark == "1" for mark in marks], np.bool_)
    return marked.reshape(grid)


def write_marks(masking: Masking) -> str:
    """Return a text that marks the hidden patches of one picture by 1."""
    return "".join(str(int(each)) for each in masking.hidden_BL[0])
