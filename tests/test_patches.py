"""Patches are the official port's: row-major, each as (row, column, channel)."""

import pytest
import torch

from unmask.patches import gather_tokens, patchify, unpatchify

SIDE = 3


def test_unpatchify_undoes_patchify() -> None:
    images = torch.randn(2, 5, 4 * SIDE, 2 * SIDE)
    assert unpatchify(patchify(images, SIDE), (4, 2), 5).equal(images)


def test_a_patch_lists_its_pixels_by_row_column_channel() -> None:
    channels, rows, cols = 2, 2, 4
    image = torch.randn(1, channels, rows * SIDE, cols * SIDE)
    patches = patchify(image, SIDE)
    for row in range(rows):
        for col in range(cols):
            expected = [
                image[0, c, row * SIDE + p, col * SIDE + q].item()
                for p in range(SIDE)
                for q in range(SIDE)
                for c in range(channels)
            ]
            assert patches[0, row * cols + col].tolist() == expected


def test_a_patch_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"patch_size=5 does not divide an image of 10 x 12 pixels"
    ):
        patchify(torch.zeros(1, 3, 10, 12), 5)


def test_gather_takes_the_chosen_tokens_in_the_order_of_the_index() -> None:
    tokens = torch.randn(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 2]])
    assert gather_tokens(tokens, index).equal(
        torch.stack([tokens[0, [3, 0]], tokens[1, [1, 2]]])
    )
