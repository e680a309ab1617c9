"""The encoder sees only the visible patches, and its shortcuts change no number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask import kernels
from unmask.encoder import Encoder
from unmask.kernels import Kernels
from unmask.mae import MAE
from unmask.masking import Masking
from unmask.patches import gather_tokens, patchify, unpatchify


@pytest.fixture
def encoder(make_mae: Callable[..., MAE]) -> Encoder:
    return make_mae().encoder


def hidden_pixels(masking: Masking, images: Tensor) -> Tensor:
    patches = masking.hidden_BL[:, :, None].expand(-1, -1, 12).float()
    return unpatchify(patches, (4, 4), images.shape[1]).bool()


def test_hidden_pixels_change_nothing(
    encoder: Encoder, images: Tensor, masking: Masking
) -> None:
    other = torch.where(
        hidden_pixels(masking, images), torch.full_like(images, 1e6), images
    )
    assert encoder(images, masking.visible_BV).equal(encoder(other, masking.visible_BV))


def test_gradients_reach_visible_pixels_only(
    encoder: Encoder, images: Tensor, masking: Masking
) -> None:
    images.requires_grad_()
    encoder(images, masking.visible_BV).square().sum().backward()
    hidden = hidden_pixels(masking, images)
    assert images.grad is not None
    assert (images.grad[hidden] == 0).all()
    assert (images.grad[~hidden] != 0).all()


def test_gathering_pixels_equals_gathering_embedded_patches(
    encoder: Encoder, images: Tensor, masking: Masking
) -> None:
    embedded = encoder.patch_embed(patchify(images, 2)) + encoder.pos_embed[:, 1:]
    tokens = torch.cat(
        [
            encoder.cls_token.expand(4, -1, -1),
            gather_tokens(embedded, masking.visible_BV),
        ],
        dim=1,
    )
    for block in encoder.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(
        encoder(images, masking.visible_BV), encoder.norm(tokens), rtol=1e-5, atol=1e-5
    )


def test_fused_and_plain_attention_agree(encoder: Encoder, images: Tensor) -> None:
    plain = encoder(images)
    assert not encoder.blocks[0].attn.fused_attn
    with kernels.using(Kernels(attention={17: "fused"})):
        fused = encoder(images)
    assert encoder.blocks[0].attn.fused_attn
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


def test_seeing_every_patch_is_what_no_mask_means(
    encoder: Encoder, images: Tensor
) -> None:
    everything = torch.arange(16).expand(4, -1)
    torch.testing.assert_close(encoder(images, everything), encoder(images))


def test_tokens_follow_the_order_of_the_visible_patches(
    encoder: Encoder, images: Tensor, masking: Masking
) -> None:
    tokens, reversed_tokens = (
        encoder(images, masking.visible_BV),
        encoder(images, masking.visible_BV.flip(1)),
    )
    torch.testing.assert_close(
        tokens[:, 0], reversed_tokens[:, 0], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        tokens[:, 1:].flip(1), reversed_tokens[:, 1:], rtol=1e-5, atol=1e-5
    )


def test_positions_are_fixed_and_everything_else_learns(encoder: Encoder) -> None:
    assert [name for name, p in encoder.named_parameters() if not p.requires_grad] == [
        "pos_embed"
    ]


def test_images_need_not_be_square(images: Tensor) -> None:
    encoder = Encoder((4, 2), 2, 3, 32, 1, 4)
    left = encoder(images[..., :4])
    assert left.shape == (4, 9, 32)
