"""Animated GIFs: more and more is hidden; hidden patches are filled in one by one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unmask.commands.reconstruct.autoencoder import LoadedAutoencoder
from unmask.commands.studio.filling import Filled, fill_in
from unmask.commands.studio.masks import Spec, sample_masking
from unmask.commands.studio.pictures import to_tile
from unmask.masking import Masking
from unmask.randomness import make_key, uniform
from unmask.reconstructions import frame_tiles, label_columns
from unmask.storage.atomic import atomic_write
from unmask.training.build import SAMPLERS

# shares of patches that a sweep hides
SWEEP = tuple(percent / 100 for percent in range(10, 100, 5))
REVEAL_FRAMES = 16
FRAME_MS, LAST_MS = 350, 1500


def sweep_frames(
    autoencoder: LoadedAutoencoder,
    image_BCHW: Float[Tensor, "1 C H W"],
    spec: Spec,
    seed: int,
    by_answer: bool = False,
) -> Iterator[Image.Image]:
    """Yield the masked and the filled picture at rising mask ratios.

    A random sampler hides all that it hid before, and more. Raises ValueError for a
    sampler that hides the same at every ratio, or none and all patches alone.
    """
    if spec["_target_"] == SAMPLERS["grid"]:
        raise ValueError(
            f"{spec['_target_']} hides the same patches at every mask ratio: choose"
            " another sampler for the sweep"
        )
    grid = autoencoder.model.encoder.grid
    before = 0
    for ratio in SWEEP:
        try:
            masking = sample_masking(spec, grid, ratio, seed)
        # a coarse grid has no patch to spare at the ends
        except ValueError:
            continue
        if masking.hidden_BM.shape[1] == before:
            continue
        before = masking.hidden_BM.shape[1]
        filled = fill_in(autoencoder, image_BCHW, masking, by_answer)
        hidden = 100 * filled.num_hidden / filled.num_patches
        label = f"{filled.num_hidden} of {filled.num_patches}: {hidden:.0f} % hidden"
        yield _frame([filled.result.masked_BCHW, filled.result.pasted_BCHW], label)
    if not before:
        raise ValueError(
            f"{spec['_target_']} leaves none or all of {grid[0]} x {grid[1]} patches"
            " visible at every mask ratio: choose another sampler for the sweep"
        )


def reveal_frames(
    filled: Filled, masking: Masking, grid: tuple[int, int], seed: int
) -> Iterator[Image.Image]:
    """Yield the masked picture as its hidden patches are filled in, a few at a time.

    grid: rows and columns of patches. Beside it stands the original.
    """
    hidden_M = masking.hidden_BM[0]
    patches = masking.hidden_BL.shape[1]
    noise = uniform(make_key(seed, "picture"), 0, torch.arange(1), len(hidden_M))
    order_M = hidden_M[noise[0].argsort()]
    steps = min(REVEAL_FRAMES, len(hidden_M))
    for step in range(steps + 1):
        count = round(step * len(hidden_M) / steps)
        shown_L = torch.zeros(patches, dtype=torch.bool)
        shown_L[order_M[:count]] = True
        label = f"{count} of {len(hidden_M)} hidden patches filled in"
        shown = filled.revealed(shown_L, grid)
        yield _frame([shown, filled.result.original_BCHW], label)


def write_gif(frames: Sequence[Image.Image], path: Path) -> Path:
    """Write frames that repeat for ever, and stay a while on the last one."""
    # a palette of each frame would take most of the time, and flicker
    ends = np.concatenate([np.asarray(frames[0]), np.asarray(frames[-1])])
    palette = Image.fromarray(ends).quantize()
    first, *others = (frame.quantize(palette=palette) for frame in frames)
    with atomic_write(path) as file:
        first.save(
            file,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=[FRAME_MS] * len(others) + [LAST_MS],
            loop=0,
        )
    return path


def _frame(images: list[Tensor], label: str) -> Image.Image:
    tiles = np.stack([to_tile(image) for image in images])
    return label_columns(frame_tiles(tiles[None]), [label])
