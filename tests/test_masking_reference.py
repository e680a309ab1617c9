"""Masks equal those of slow loops that are written from the definitions.

MAE's sampling (Sec. 3, Fig. 6) and BEiT's blocks (Alg. 1).
"""

import math

import pytest
import torch

from unmask.masking import BlockMasking, GridMasking, Masking, RandomMasking
from unmask.randomness import Key, make_key, uniform

SIZES = [
    ((14, 14), 0.5),
    ((14, 14), 0.75),
    ((8, 8), 0.5),
    ((8, 8), 0.75),
    ((6, 11), 0.6),
    ((4, 4), 0.75),
]
Cell = tuple[int, int]


def cells(grid: Cell) -> list[Cell]:
    return [(row, col) for row in range(grid[0]) for col in range(grid[1])]


def hidden_cells(masking: Masking, grid: Cell) -> list[set[Cell]]:
    """Return each image's hidden cells, after a check that indices and mask agree."""
    grid_cells = cells(grid)
    for visible, masked, hidden in zip(
        *(part.tolist() for part in masking), strict=True
    ):
        assert sorted(visible) == [
            i for i, is_hidden in enumerate(hidden) if not is_hidden
        ]
        assert sorted(masked) == [i for i, is_hidden in enumerate(hidden) if is_hidden]
    return [{grid_cells[i] for i in masked} for masked in masking.hidden_BM.tolist()]


def slow_block(
    draw: list[float], grid: Cell, smallest: int, remaining: int
) -> set[Cell]:
    """Return one rectangle with rounded sides.

    The area is uniform in [smallest, remaining], the aspect log-uniform in
    [0.3, 1/0.3].
    """
    rows, cols = grid
    area = smallest + draw[0] * (remaining - smallest)
    aspect = math.exp(math.log(0.3) + draw[1] * (math.log(1 / 0.3) - math.log(0.3)))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (0 < height < rows and 0 < width < cols):
        return set()
    top, left = (
        math.floor(draw[2] * (rows - height + 1)),
        math.floor(draw[3] * (cols - width + 1)),
    )
    return {
        (row, col)
        for row in range(top, top + height)
        for col in range(left, left + width)
    }


def slow_blocks(
    draws: list[list[float]], grid: Cell, smallest: int, target: int
) -> set[Cell]:
    """Take blocks that hide something new and not too much.

    Until `target` cells are hidden or ten blocks in a row are refused.
    """
    hidden: set[Cell] = set()
    failures = 0
    for draw in draws:
        remaining = target - len(hidden)
        if remaining == 0 or failures == 10:
            return hidden
        block = slow_block(draw, grid, smallest, remaining)
        if 1 <= len(block - hidden) <= remaining:
            hidden, failures = hidden | block, 0
        else:
            failures += 1
    raise AssertionError(
        f"{len(draws)} draws cannot run out: of each ten one hides a patch, or the"
        " search ends"
    )


@pytest.mark.parametrize(("grid", "ratio"), SIZES)
def test_the_same_draws_give_the_same_blocks_and_the_same_random_rest(
    grid: Cell, ratio: float, key: Key
) -> None:
    """The free patches of highest noise fill up the count.

    The others are visible, in the order of their noise.
    """
    ids, patches = torch.arange(50, 110), math.prod(grid)
    target, smallest = round(patches * ratio), max(1, round(patches * 16 / 196))
    masking = BlockMasking(grid, ratio)(key, ids, 7)
    draws = uniform(key, 7, ids, 40 * target).double().view(len(ids), -1, 4).tolist()
    noise = uniform(Key(key.low ^ 1, key.high), 7, ids, patches).tolist()
    missing = 0
    for i, hidden in enumerate(hidden_cells(masking, grid)):
        blocks = slow_blocks(draws[i], grid, smallest, target)
        noise_of = dict(zip(cells(grid), noise[i], strict=True))
        free = sorted(set(cells(grid)) - blocks, key=lambda cell: noise_of[cell])
        visible = free[: patches - target]
        assert hidden == blocks | set(free[patches - target :])
        assert [cells(grid)[index] for index in masking.visible_BV[i].tolist()] == (
            visible
        )
        missing += target - len(blocks)
    assert missing > 0, "the blocks alone hid enough: the rest was not tested"


@pytest.mark.parametrize("min_patches", [1, 4, 16])
def test_min_patches_is_the_size_of_the_smallest_block(
    min_patches: int, key: Key
) -> None:
    """BEiT's class has 4 where its run script has 16; all blocks are hidden."""
    grid, target, ids = (14, 14), 98, torch.arange(20)
    all_hidden = hidden_cells(BlockMasking(grid, 0.5, min_patches)(key, ids, 0), grid)
    draws = uniform(key, 0, ids, 40 * target).double().view(len(ids), -1, 4).tolist()
    blocks = [slow_blocks(each, grid, min_patches, target) for each in draws]
    assert all(
        block <= hidden for block, hidden in zip(blocks, all_hidden, strict=True)
    )
    assert sum(map(len, blocks)) > 0.95 * target * len(ids)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"),
    [((14, 14), 0.5, 98), ((14, 14), 0.75, 147), ((8, 8), 0.5, 32), ((8, 8), 0.75, 48)],
)
def test_ten_thousand_images_are_hidden_by_blocks_to_the_same_number(
    grid: Cell, ratio: float, hidden: int, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any draws; these come from torch, which is faster."""
    source = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        "unmask.masking.uniform",
        lambda *args: torch.rand(len(args[2]), args[3], generator=source),
    )
    for _ in range(10):
        masking = BlockMasking(grid, ratio)(key, torch.arange(1_000), 0)
        assert masking.hidden_BL.sum(1).eq(hidden).all()
        assert masking.visible_BV.shape == (1_000, math.prod(grid) - hidden)


@pytest.mark.parametrize(
    ("ratio", "share", "mean", "most"),
    [(0.5, (0.2, 0.45), 0.7, 12), (0.75, (0.2, 0.45), 1.5, 30)],
)
def test_blocks_alone_are_rarely_far_from_the_number_they_should_hide(
    ratio: float, share: tuple[float, float], mean: float, most: int
) -> None:
    """So the random rest does not change what block-wise sampling is."""
    grid, target, ids = (14, 14), round(196 * ratio), torch.arange(400)
    blocks = BlockMasking(grid, ratio)._sample_blocks(
        make_key(0, "short"), ids, 0, target
    )
    missing = target - blocks.sum(1)
    assert missing.min() >= 0
    assert share[0] < (missing > 0).double().mean() < share[1]
    assert missing.double().mean() < mean
    assert missing.max() <= most


@pytest.mark.parametrize(
    ("grid", "kept"),
    [((14, 14), 49), ((8, 8), 16), ((16, 16), 64), ((7, 5), 12), ((2, 2), 1)],
)
def test_the_grid_keeps_the_upper_left_patch_of_every_two_by_two(
    grid: Cell, kept: int, key: Key
) -> None:
    """Fig. 6, right: the even rows' even columns, in every image and epoch."""
    masking = GridMasking(grid, 0.75)(key, torch.tensor([0, 9, 5]), 4)
    lattice = {
        (row, col) for row in range(0, grid[0], 2) for col in range(0, grid[1], 2)
    }
    assert len(lattice) == kept
    assert hidden_cells(masking, grid) == [set(cells(grid)) - lattice] * 3


@pytest.mark.parametrize(
    ("grid", "ratio"), [*SIZES, ((14, 14), 0.1), ((14, 14), 0.9), ((8, 8), 0.4)]
)
def test_random_sampling_keeps_the_patches_of_lowest_noise(
    grid: Cell, ratio: float, key: Key
) -> None:
    """Both index lists are in the order of the noise; the number is rounded."""
    ids, patches = torch.tensor([3, 1, 4, 15, 926]), math.prod(grid)
    masking = RandomMasking(grid, ratio)(key, ids, 2)
    hidden_cells(masking, grid)
    for visible, masked, noise in zip(
        masking.visible_BV.tolist(),
        masking.hidden_BM.tolist(),
        uniform(key, 2, ids, patches).tolist(),
        strict=True,
    ):
        order = sorted(range(patches), key=lambda i: noise[i])
        kept = math.floor(patches * (1 - ratio) + 0.5)
        assert (visible, masked) == (order[:kept], order[kept:])


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_every_pair_of_patches_is_hidden_together_as_often_as_any_other(
    ratio: float,
) -> None:
    """n hidden of 64: P(i) = n / 64 and P(i and j) = n (n - 1) / (64 * 63).

    Within 5 standard errors for 2,016 pairs.
    """
    count, hidden = 10_000, round(64 * ratio)
    hidden_BL = RandomMasking((8, 8), ratio)(
        make_key(1, "pairs"), torch.arange(count), 0
    ).hidden_BL.float()
    together = hidden_BL.T @ hidden_BL / count
    once, twice = hidden / 64, hidden * (hidden - 1) / (64 * 63)
    assert (together.diagonal() - once).abs().max() < 4.5 * (
        once * (1 - once) / count
    ) ** 0.5
    pairs = together[torch.triu_indices(64, 64, 1).unbind()]
    assert (pairs - twice).abs().max() < 5 * (twice * (1 - twice) / count) ** 0.5
    # and no more alike than chance: the spread of the frequencies is that of
    # independent draws
    assert pairs.std().item() == pytest.approx(
        (twice * (1 - twice) / count) ** 0.5, rel=0.1
    )
