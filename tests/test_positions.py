"""Positions are the official port's fixed sines and cosines."""

import math

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from unmask.patches import sincos_2d

WIDTH, GRID = 16, (3, 5)


def test_positions_follow_the_formula_element_by_element() -> None:
    """Halves for (x, y); in each sines, then cosines, of index / 10000^(k / (D/4))."""
    quarter = WIDTH // 4
    expected = [[0.0] * WIDTH]
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            expected.append(
                [
                    wave(index / 10000 ** (k / quarter))
                    for index in (x, y)
                    for wave in (math.sin, math.cos)
                    for k in range(quarter)
                ]
            )
    torch.testing.assert_close(
        sincos_2d(WIDTH, GRID), torch.tensor(expected), rtol=0, atol=1e-7
    )


def test_positions_are_timms_in_another_order_of_channels() -> None:
    """timm: sin y, sin x, cos y, cos x; official port: sin x, cos x, sin y, cos y."""
    sin_y, sin_x, cos_y, cos_x = build_sincos2d_pos_embed(list(GRID), WIDTH).chunk(
        4, dim=1
    )
    expected = torch.cat([sin_x, cos_x, sin_y, cos_y], dim=1)
    torch.testing.assert_close(sincos_2d(WIDTH, GRID)[1:], expected, rtol=0, atol=1e-6)


def test_the_class_token_has_no_position() -> None:
    assert sincos_2d(WIDTH, GRID)[0].tolist() == [0.0] * WIDTH


def test_one_half_encodes_the_column_and_the_other_the_row() -> None:
    patches = sincos_2d(WIDTH, GRID)[1:].view(*GRID, WIDTH)
    column, row = patches.chunk(2, dim=-1)
    assert (column == column[:1]).all()
    assert (row == row[:, :1]).all()
    assert len(patches.flatten(0, 1).unique(dim=0)) == 15


def test_a_width_without_four_equal_parts_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"need a width that is a multiple of 4, not 18"
    ):
        sincos_2d(18, GRID)
