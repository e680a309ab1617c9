"""Squares of patches are hidden together, as Pixio and SimMIM define it."""

import re

import pytest
import torch

from small_runs import raw_config
from unmask.coarse_masking import CoarseMasking, coarse_masking
from unmask.config.checks import ConfigError, check
from unmask.masking import RandomMasking
from unmask.randomness import make_key, uniform
from unmask.training.build import count_visible

KEY, IDS = make_key(0, "mask"), torch.arange(50)


def slow_visible(
    noise: list[float], grid: tuple[int, int], block: int, kept: int
) -> set[int]:
    """Return the patches of the squares of lowest noise, one square after another."""
    rows, cols = grid
    squares = [
        (top, left) for top in range(0, rows, block) for left in range(0, cols, block)
    ]
    order = sorted(range(len(squares)), key=lambda unit: (noise[unit], unit))
    visible = set()
    for unit in order[:kept]:
        top, left = squares[unit]
        for row in range(top, top + block):
            visible |= {row * cols + col for col in range(left, left + block)}
    return visible


@pytest.mark.parametrize(
    ("grid", "block", "ratio", "kept"),
    [((16, 16), 4, 0.75, 4), ((14, 14), 2, 0.6, 20), ((4, 8), 4, 0.5, 1)],
)
def test_masks_are_those_of_slow_loops(
    grid: tuple[int, int], block: int, ratio: float, kept: int
) -> None:
    masking = CoarseMasking(grid, ratio, block)(KEY, IDS, 3)
    squares = grid[0] * grid[1] // block**2
    for b, noise in enumerate(uniform(KEY, 3, IDS, squares).tolist()):
        visible = slow_visible(noise, grid, block, kept)
        assert set(masking.visible_BV[b].tolist()) == visible
        everything = set(range(grid[0] * grid[1]))
        assert set(masking.hidden_BM[b].tolist()) == everything - visible
        assert (
            set(masking.hidden_BL[b].nonzero()[:, 0].tolist()) == everything - visible
        )


def test_squares_of_equal_noise_are_not_torn_apart() -> None:
    masking = coarse_masking(torch.zeros(1, 16), (8, 8), 2, 0.75)
    assert set(masking.visible_BV[0].tolist()) == slow_visible([0] * 16, (8, 8), 2, 4)


def test_squares_of_one_patch_are_random_masking() -> None:
    ours = CoarseMasking((6, 8), 0.7, 1)(KEY, IDS, 2)
    plain = RandomMasking((6, 8), 0.7)(KEY, IDS, 2)
    assert all(map(torch.equal, ours, plain))


def test_every_square_is_hidden_equally_often() -> None:
    masking = CoarseMasking((8, 8), 0.75, 2)(KEY, torch.arange(4000), 0)
    share = masking.hidden_BL.float().mean(dim=0)
    assert (share - 0.75).abs().max() < 0.03


@pytest.mark.parametrize(("size", "block"), [(32, 2), (56, 2), (64, 4), (28, 1)])
def test_null_is_a_quarter_of_the_grid(size: int, block: int) -> None:
    """Pixio's squares are 4 of 16 patches wide."""
    config = check(
        raw_config("masking=coarse", "data.patch_size=4", f"data.image_size={size}")
    )
    assert config.masking.block == block
    assert count_visible(config) == config.num_visible


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["masking.block=3"], "does not divide a grid of 8 x 8 patches; blocks that do: 1, 2, 4, 8"),
        (["masking.block=8"], "keeps 0 of 64 patches"),
        (["masking.block=0"], "masking.block = 0"),
        (["masking=random", "+masking.block=2"], "masking.block"),
    ],
)  # fmt: skip
def test_squares_that_do_not_fit_are_refused(
    overrides: list[str], message: str
) -> None:
    common = ["masking=coarse", "data.image_size=32", "data.patch_size=4"]
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(raw_config(*common, *overrides))


def test_a_square_that_does_not_divide_the_grid_has_no_mask() -> None:
    with pytest.raises(ValueError, match="block=3 does not divide a grid of 8 x 8"):
        coarse_masking(torch.zeros(1, 4), (8, 8), 3, 0.5)
