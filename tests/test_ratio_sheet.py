"""One model at several ratios: what one ratio hides, the next hides too."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.randomness import make_key
from unmask.reconstructions import GAP, LABEL_HEIGHT, ratio_sheet, reconstruct, to_tiles
from unmask.targets import NormalisedPixel, Pixel

MEAN, STD, SIDE, ZOOM = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 8, 10


def tiles(sheet: np.ndarray) -> np.ndarray:
    """rows x columns x pixels of the small images."""
    pitch = SIDE * ZOOM + 2 * GAP
    sheet = sheet[LABEL_HEIGHT:]
    rows, columns = sheet.shape[0] // pitch, sheet.shape[1] // pitch
    cut = sheet.reshape(rows, pitch, columns, pitch, 3).transpose(0, 2, 1, 3, 4)
    return cut[:, :, GAP:-GAP:ZOOM, GAP:-GAP:ZOOM]


@pytest.mark.parametrize("target", [Pixel(), NormalisedPixel()])
def test_a_row_has_the_image_and_then_mask_and_reconstruction_at_each_ratio(
    target: Pixel | NormalisedPixel, make_mae: Callable[..., MAE], images: Tensor
) -> None:
    model = make_mae()
    shown = tiles(
        np.asarray(ratio_sheet(model, target, images, MEAN, STD, (0.5, 0.75), seed=3))
    )
    assert shown.shape == (4, 5, SIDE, SIDE, 3)
    for i, ratio in enumerate((0.5, 0.75)):
        masking = RandomMasking((4, 4), ratio)(
            make_key(3, "picture"), torch.arange(4), 0
        )
        result = reconstruct(model, target, images, masking, MEAN, STD)
        assert (shown[:, 0] == to_tiles(result.original_BCHW)).all()
        assert (shown[:, 1 + 2 * i] == to_tiles(result.masked_BCHW)).all()
        assert (shown[:, 2 + 2 * i] == to_tiles(result.pasted_BCHW)).all()


def test_what_a_ratio_hides_a_larger_one_hides_too(
    make_mae: Callable[..., MAE], images: Tensor
) -> None:
    shown = tiles(
        np.asarray(
            ratio_sheet(make_mae(), Pixel(), images, MEAN, STD, (0.5, 0.75, 0.9))
        )
    )
    hidden = [(shown[:, column] == 128).all(axis=-1) for column in (1, 3, 5)]
    shares = [part.mean() for part in hidden]
    assert shares == pytest.approx([0.5, 0.75, 14 / 16])
    assert not (hidden[0] & ~hidden[1]).any()
    assert not (hidden[1] & ~hidden[2]).any()


def test_a_ratio_that_keeps_nothing_is_refused(
    make_mae: Callable[..., MAE], images: Tensor
) -> None:
    with pytest.raises(
        ValueError, match=r"mask_ratio=0.99 keeps 0 of 16 patches; pick a ratio"
    ):
        ratio_sheet(make_mae(), Pixel(), images, MEAN, STD, (0.75, 0.99))
