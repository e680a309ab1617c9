"""Masks are functions of (key, sample, epoch) and follow the named distribution.

They hide exactly as many patches as the ratio says.
"""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor

from unmask.masking import (
    BlockMasking,
    GridMasking,
    RandomMasking,
    grid_masking,
    num_visible,
    random_masking,
)
from unmask.randomness import Key, make_key

KINDS = [RandomMasking, BlockMasking, GridMasking]
GRID = (14, 14)


def neighbour_pairs(hidden_BL: Tensor, grid: tuple[int, int] = GRID) -> Tensor:
    """Count adjacent pairs of hidden patches in each image: a measure of contiguity."""
    hidden = hidden_BL.view(-1, *grid)
    return (hidden[:, 1:] & hidden[:, :-1]).sum((1, 2)) + (
        hidden[:, :, 1:] & hidden[:, :, :-1]
    ).sum((1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_eight_batches_of_four_are_masked_like_one_of_thirty_two(
    kind: type, key: Key
) -> None:
    mask = kind(GRID, 0.75)
    batch = mask(key, torch.arange(32), 3)
    parts = [mask(key, torch.arange(i, i + 4), 3) for i in range(0, 32, 4)]
    for field, pieces in zip(batch, zip(*parts, strict=True), strict=True):
        assert field.equal(torch.cat(pieces))


@pytest.mark.parametrize("kind", [RandomMasking, BlockMasking])
def test_masks_differ_between_samples_epochs_and_seeds(kind: type, key: Key) -> None:
    mask = kind(GRID, 0.5)
    ids = torch.arange(20)
    drawn = [mask(key, ids, 0), mask(key, ids, 1), mask(make_key(1, "test"), ids, 0)]
    rows = torch.cat([masking.hidden_BL for masking in drawn])
    assert len(rows.unique(dim=0)) == len(rows)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    rows=st.integers(2, 9),
    cols=st.integers(2, 9),
    ratio=st.floats(0.3, 0.7),
    kind=st.sampled_from(KINDS),
)
def test_the_three_fields_of_a_masking_agree(
    rows: int, cols: int, ratio: float, kind: type
) -> None:
    """hidden_BL is True at hidden patches only; each patch is hidden or visible."""
    masking = kind((rows, cols), ratio)(make_key(0, "fields"), torch.arange(5), 0)
    assert not masking.hidden_BL.gather(1, masking.visible_BV).any()
    assert masking.hidden_BL.gather(1, masking.hidden_BM).all()
    both = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
    assert both.sort(1).values.equal(torch.arange(rows * cols).expand(5, -1))
    if kind is not GridMasking:
        assert masking.visible_BV.shape[1] == num_visible(rows * cols, ratio)


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [(196, 0.75, 49), (196, 0.4, 118), (100, 0.9, 10), (49, 0.75, 12), (196, 0.9, 20)],
)
def test_the_number_of_visible_patches_is_rounded_to_nearest(
    patches: int, ratio: float, kept: int
) -> None:
    assert num_visible(patches, ratio) == kept
    assert random_masking(torch.rand(2, patches), ratio).visible_BV.shape == (2, kept)


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.0, 16), (0.99, 0), (1.0, 0), (-0.5, 24)]
)
def test_a_ratio_that_leaves_nothing_to_see_or_to_predict_is_refused(
    ratio: float, kept: int
) -> None:
    expected = (
        rf"mask_ratio={ratio} keeps {kept} of 16 patches; pick a ratio that keeps"
        r" between 1 and 15"
    )
    with pytest.raises(ValueError, match=expected):
        num_visible(16, ratio)


def test_every_patch_and_every_pair_is_hidden_as_often_as_chance_says(key: Key) -> None:
    """Drawn without replacement: P = 3/4, and pairs correlate by -1 / (L - 1).

    Within 4.5 and 5.5 standard errors.
    """
    count, patches = 5_000, math.prod(GRID)
    hidden = (
        RandomMasking(GRID, 0.75)(key, torch.arange(count), 0)
        .hidden_BL.double()
        .numpy()
    )
    assert np.abs(hidden.mean(0) - 0.75).max() < 4.5 * math.sqrt(0.75 * 0.25 / count)
    pairs = np.corrcoef(hidden.T)[np.triu_indices(patches, 1)]
    assert np.abs(pairs + 1 / (patches - 1)).max() < 5.5 / math.sqrt(count)


def test_masks_of_successive_epochs_overlap_by_chance_only(key: Key) -> None:
    ids = torch.arange(1_000)
    first, second = (
        RandomMasking(GRID, 0.75)(key, ids, epoch).visible_BV for epoch in (0, 1)
    )
    overlaps = torch.stack(
        [torch.isin(a, b).sum() for a, b in zip(first, second, strict=True)]
    ).double()
    expected = stats.hypergeom(196, 49, 49)
    assert abs(overlaps.mean() - expected.mean()) < 4 * expected.std() / 1_000**0.5


def test_ties_go_to_the_lower_index() -> None:
    assert random_masking(torch.zeros(1, 8), 0.5).visible_BV.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_blocks_hide_exactly_the_ratio_and_are_contiguous(
    ratio: float, key: Key
) -> None:
    ids = torch.arange(100)
    blocks = BlockMasking(GRID, ratio)(key, ids, 0).hidden_BL
    scattered = RandomMasking(GRID, ratio)(key, ids, 0).hidden_BL
    assert (blocks.sum(1) == 196 * ratio).all()
    assert (
        neighbour_pairs(blocks).double().quantile(0.05)
        > neighbour_pairs(scattered).max()
    )


def test_the_first_block_has_at_least_the_smallest_size(key: Key) -> None:
    """16 of 196 by default; rounding both sides can take away 4 of the 16."""
    hidden = BlockMasking(GRID, 0.25)(key, torch.arange(60), 0).hidden_BL
    for image in hidden.view(-1, *GRID):
        labels, _ = ndimage.label(image.numpy())
        assert np.bincount(labels.flat)[1:].max() >= 12
    same = BlockMasking(GRID, 0.25, min_patches=16)(key, torch.arange(60), 0).hidden_BL
    finer = BlockMasking(GRID, 0.25, min_patches=1)(key, torch.arange(60), 0).hidden_BL
    assert hidden.equal(same)
    assert (
        neighbour_pairs(finer).double().mean() < neighbour_pairs(hidden).double().mean()
    )


def test_blocks_favour_no_side_of_the_image(key: Key) -> None:
    """Top and bottom are hidden equally often, and so are left and right.

    Within 4 standard errors of paired rows.
    """
    hidden = (
        BlockMasking(GRID, 0.5)(key, torch.arange(300), 0)
        .hidden_BL.view(-1, *GRID)
        .double()
    )
    for rows_BR in (hidden.mean(2), hidden.mean(1)):
        lean_BR = rows_BR - rows_BR.flip(1)
        assert (lean_BR.mean(0).abs() <= 4 * lean_BR.std(0) / 300**0.5).all()


def test_blocks_are_distributed_as_beit_draws_them(key: Key) -> None:
    """A plain loop after BEiT gives the same contiguity (Kolmogorov-Smirnov test)."""
    ours = neighbour_pairs(BlockMasking(GRID, 0.5)(key, torch.arange(300), 0).hidden_BL)
    source = random.Random(0)
    plain = torch.stack(
        [plain_blocks(source, target=98, smallest=16) for _ in range(300)]
    )
    assert (plain.sum(1) == 98).all()
    assert stats.ks_2samp(ours, neighbour_pairs(plain)).pvalue > 1e-3


def plain_blocks(source: random.Random, target: int, smallest: int) -> Tensor:
    rows, cols = GRID
    hidden: set[tuple[int, int]] = set()
    failures = 0
    while len(hidden) < target and failures < 10:
        area = source.uniform(smallest, target - len(hidden))
        aspect = math.exp(source.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failures += 1
        if 0 < height < rows and 0 < width < cols:
            top, left = (
                source.randint(0, rows - height),
                source.randint(0, cols - width),
            )
            block = {(top + i, left + j) for i in range(height) for j in range(width)}
            if 0 < len(block - hidden) <= target - len(hidden):
                hidden, failures = hidden | block, 0
    free = [(i, j) for i in range(rows) for j in range(cols) if (i, j) not in hidden]
    hidden.update(source.sample(free, target - len(hidden)))
    return torch.tensor([(i, j) in hidden for i in range(rows) for j in range(cols)])


@pytest.mark.parametrize(("grid", "kept"), [((14, 14), 49), ((7, 7), 16), ((4, 6), 6)])
def test_the_grid_keeps_even_rows_and_columns_of_every_image(
    grid: tuple[int, int], kept: int, key: Key
) -> None:
    masking = grid_masking(3, grid)
    rows, cols = masking.visible_BV // grid[1], masking.visible_BV % grid[1]
    assert (rows % 2 == 0).all()
    assert (cols % 2 == 0).all()
    assert masking.visible_BV.shape == (3, kept)
    later = GridMasking(grid, 0.75)(key, torch.tensor([7, 9, 11]), 5)
    assert later.hidden_BL.equal(masking.hidden_BL)
