"""The decoder predicts hidden patches from visible ones, in any order of tokens."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.decoder import Decoder
from unmask.mae import MAE
from unmask.masking import Masking


@pytest.fixture
def decoder(make_mae: Callable[..., MAE]) -> Decoder:
    return make_mae().decoder


@pytest.fixture
def encoded() -> Tensor:
    """Class token and four visible patches of each of four images."""
    return torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(2))


def test_the_order_of_visible_patches_does_not_matter(
    decoder: Decoder, encoded: Tensor, masking: Masking
) -> None:
    order = torch.tensor([2, 0, 3, 1])
    reordered = torch.cat([encoded[:, :1], encoded[:, 1:][:, order]], dim=1)
    permuted = masking._replace(visible_BV=masking.visible_BV[:, order])
    torch.testing.assert_close(
        decoder(reordered, permuted), decoder(encoded, masking), rtol=1e-5, atol=1e-5
    )


def test_predictions_follow_the_order_of_the_hidden_patches(
    decoder: Decoder, encoded: Tensor, masking: Masking
) -> None:
    flipped = masking._replace(hidden_BM=masking.hidden_BM.flip(1))
    torch.testing.assert_close(
        decoder(encoded, flipped).flip(1),
        decoder(encoded, masking),
        rtol=1e-5,
        atol=1e-5,
    )


def test_each_hidden_patch_has_a_prediction_of_its_own(
    decoder: Decoder, encoded: Tensor, masking: Masking
) -> None:
    """The mask tokens are equal: only positions can tell the patches apart."""
    pred = decoder(encoded, masking)
    assert pred.shape == (4, 12, 12)
    distances = torch.cdist(pred, pred) + torch.eye(12) * 1e6
    assert distances.min() > 1e-3


@pytest.mark.parametrize("token", [0, 1], ids=["class token", "visible patch"])
def test_predictions_use_all_that_is_encoded(
    decoder: Decoder, encoded: Tensor, masking: Masking, token: int
) -> None:
    other = encoded.clone()
    other[:, token] += 1
    assert (
        (decoder(other, masking) - decoder(encoded, masking)).abs().amax(dim=2) > 0
    ).all()


def test_images_of_a_batch_do_not_mix(
    decoder: Decoder, encoded: Tensor, masking: Masking
) -> None:
    single = decoder(encoded[1:2], Masking(*(part[1:2] for part in masking)))
    torch.testing.assert_close(
        decoder(encoded, masking)[1:2], single, rtol=1e-5, atol=1e-5
    )
