"""Ablations of Table 1: mask tokens in the encoder, a linear head, other targets and losses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.decoder import Decoder, LinearHead
from unmask.encoder import Encoder
from unmask.hog import hog
from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.patches import gather_tokens, patchify, unpatchify
from unmask.randomness import Key
from unmask.targets import Hog, PatchPCA, Pixel, Tokens, cross_entropy, targets_at

GRID, PATCH, PIXELS, WIDTH = (4, 4), 2, 12, 32


@pytest.fixture
def masking(key: Key) -> Masking:
    return RandomMasking(GRID, 0.75)(key, torch.arange(4), 0)


def with_mask_tokens(depth: int = 2) -> MAE:
    decoder = (
        Decoder(GRID, WIDTH, PIXELS, 16, depth, 4, mask_tokens=False)
        if depth
        else LinearHead(WIDTH, PIXELS)
    )
    return MAE(Encoder(GRID, PATCH, 3, WIDTH, 2, 4), decoder, seed=0, mask_tokens=True)


def test_an_encoder_with_mask_tokens_sees_every_position_and_no_hidden_pixel(
    images: Tensor, masking: Masking
) -> None:
    model, tokens_BTD = with_mask_tokens(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda _, inputs, __: tokens_BTD.append(inputs[0])
    )
    before = model(images, masking)
    assert tokens_BTD[0].shape[1] == 1 + 16
    shown = torch.where(
        masking.hidden_BL[:, :, None],
        torch.randn(4, 16, PIXELS),
        patchify(images, PATCH),
    )
    assert model(unpatchify(shown, GRID, 3), masking).equal(before)


def test_mask_tokens_have_the_positions_of_the_hidden_patches(
    images: Tensor, masking: Masking
) -> None:
    model, tokens_BTD = with_mask_tokens(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda _, inputs, __: tokens_BTD.append(inputs[0])
    )
    model(images, masking)
    assert model.mask_token is not None
    positions_BMD = gather_tokens(
        model.encoder.pos_embed[:, 1:].expand(4, -1, -1), masking.hidden_BM
    )
    torch.testing.assert_close(tokens_BTD[0][:, 5:], model.mask_token + positions_BMD)


def test_the_decoder_adds_no_mask_tokens_if_the_encoder_had_them() -> None:
    assert with_mask_tokens().decoder.mask_token is None
    assert "mask_token" in dict(with_mask_tokens().named_parameters())


@pytest.mark.parametrize("depth", [0, 2])
def test_every_weight_of_the_variant_learns(
    depth: int, images: Tensor, masking: Masking
) -> None:
    model = with_mask_tokens(depth)
    model(images, masking).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_linear_head_predicts_each_patch_from_its_own_token(
    images: Tensor, masking: Masking
) -> None:
    model = with_mask_tokens(0)
    encoded = model.encoder(
        images, masking.visible_BV, model._encoder_mask_tokens(masking)
    )
    torch.testing.assert_close(
        model(images, masking), model.decoder.head(encoded[:, 5:])
    )


def test_hidden_patches_are_predicted_alike_if_all_patches_are_predicted(
    make_mae: Callable[..., MAE], images: Tensor, masking: Masking
) -> None:
    model = make_mae()
    everything, hidden = (
        model(images, masking, predict_visible=True),
        model(images, masking),
    )
    assert everything.shape == (4, 16, PIXELS)
    torch.testing.assert_close(everything[:, 4:], hidden)


def test_the_loss_on_all_patches_is_the_mean_error_of_the_whole_image(
    make_mae: Callable[..., MAE], images: Tensor, masking: Masking
) -> None:
    model = make_mae()
    order = torch.cat([masking.visible_BV, masking.hidden_BM], dim=1)
    pred, patches = (
        model(images, masking, predict_visible=True),
        patchify(images, PATCH),
    )
    in_place = torch.zeros_like(patches).scatter(
        1, order[:, :, None].expand_as(pred), pred
    )
    loss = Pixel().loss(pred, targets_at(Pixel(), images, order, PATCH))
    torch.testing.assert_close(loss, (in_place - patches).square().mean())


class Brightest:
    """A tokenizer for tests: the index of the patch's brightest pixel."""

    codes = PIXELS

    def to(self, device: object) -> "Brightest":
        return self

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        return patchify(images_BCHW, PATCH).argmax(dim=2)


def test_target_tokens_are_those_of_the_hidden_patches(
    images: Tensor, masking: Masking
) -> None:
    target = Tokens(Brightest())
    targets = targets_at(target, images, masking.hidden_BM, PATCH)
    assert targets.equal(
        gather_tokens(patchify(images, PATCH), masking.hidden_BM).argmax(dim=2)
    )
    assert target.num_outputs(PATCH, 3) == PIXELS


def test_target_histograms_are_those_of_the_hidden_patches(
    images: Tensor, masking: Masking
) -> None:
    all_patches = hog(images, PATCH)
    targets = targets_at(Hog(), images, masking.hidden_BM, PATCH)
    assert targets.equal(gather_tokens(all_patches, masking.hidden_BM))
    assert targets.shape[2] == Hog().num_outputs(PATCH, 3)


def test_the_loss_on_tokens_is_the_cross_entropy_of_the_right_code() -> None:
    logits, codes = torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    expected = -logits.double().log_softmax(-1).gather(2, codes[:, :, None]).mean()
    torch.testing.assert_close(
        cross_entropy(logits, codes).double(), expected, rtol=1e-6, atol=0
    )
    assert cross_entropy(logits.bfloat16(), codes).dtype == torch.float32


def test_a_pca_that_is_not_fitted_yet_has_zero_targets_of_the_right_size(
    images: Tensor,
) -> None:
    target = PatchPCA(5, PATCH, 3)
    assert target.num_outputs(PATCH, 3) == 5
    assert target(patchify(images, PATCH)).abs().max() == 0
    assert set(target.state_dict()) == {
        "mean_P",
        "basis_PK",
    }, "a checkpoint carries the basis"
