"""The ablations of Table 1 do what the paper says of them: mask tokens in the encoder, a linear head, the loss on all
patches.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.decoder import Decoder, LinearHead
from unmask.encoder import Encoder
from unmask.hog import hog
from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.patches import gather, patchify, unpatchify
from unmask.randomness import Key
from unmask.targets import Hog, PatchPCA, Pixel, Tokens, cross_entropy, wanted_at

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


def test_the_encoder_with_mask_tokens_sees_every_place_and_no_hidden_pixel(
    images: Tensor, masking: Masking
) -> None:
    model, seen = with_mask_tokens(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0])
    )
    before = model(images, masking)
    assert seen[0].shape[1] == 1 + 16
    shown = torch.where(
        masking.hidden_BL[:, :, None],
        torch.randn(4, 16, PIXELS),
        patchify(images, PATCH),
    )
    assert model(unpatchify(shown, GRID, 3), masking).equal(before)


def test_mask_tokens_stand_at_the_places_of_the_hidden_patches(
    images: Tensor, masking: Masking
) -> None:
    model, seen = with_mask_tokens(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0])
    )
    model(images, masking)
    assert model.mask_token is not None
    places = gather(model.encoder.pos_embed[:, 1:].expand(4, -1, -1), masking.masked_BM)
    torch.testing.assert_close(seen[0][:, 5:], model.mask_token + places)


def test_the_decoder_adds_no_tokens_of_its_own_where_the_encoder_carried_them() -> None:
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


def test_a_linear_head_reads_each_patchs_own_token(
    images: Tensor, masking: Masking
) -> None:
    model = with_mask_tokens(0)
    encoded = model.encoder(images, masking.visible_BV, model._stand_ins(masking))
    torch.testing.assert_close(
        model(images, masking), model.decoder.head(encoded[:, 5:])
    )


def test_hidden_patches_are_predicted_alike_whether_or_not_all_are(
    make_mae: Callable[..., MAE], images: Tensor, masking: Masking
) -> None:
    model = make_mae()
    everything, hidden = model(images, masking, everywhere=True), model(images, masking)
    assert everything.shape == (4, 16, PIXELS)
    torch.testing.assert_close(everything[:, 4:], hidden)


def test_the_loss_on_all_patches_is_the_mean_error_of_the_whole_image(
    make_mae: Callable[..., MAE], images: Tensor, masking: Masking
) -> None:
    model = make_mae()
    order = torch.cat([masking.visible_BV, masking.masked_BM], dim=1)
    pred, patches = model(images, masking, everywhere=True), patchify(images, PATCH)
    in_place = torch.zeros_like(patches).scatter(
        1, order[:, :, None].expand_as(pred), pred
    )
    loss = Pixel().loss(pred, wanted_at(Pixel(), images, order, PATCH))
    torch.testing.assert_close(loss, (in_place - patches).square().mean())


class Brightest:
    """A tokenizer for tests: the place of the patch's brightest pixel."""

    codes = PIXELS

    def to(self, device: object) -> "Brightest":
        return self

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        return patchify(images_BCHW, PATCH).argmax(dim=2)


def test_tokens_are_those_of_the_chosen_patches(
    images: Tensor, masking: Masking
) -> None:
    target = Tokens(Brightest())
    found = wanted_at(target, images, masking.masked_BM, PATCH)
    assert found.equal(gather(patchify(images, PATCH), masking.masked_BM).argmax(dim=2))
    assert target.outputs(PATCH, 3) == PIXELS


def test_gradients_are_those_of_the_chosen_patches(
    images: Tensor, masking: Masking
) -> None:
    whole = hog(images, PATCH)
    found = wanted_at(Hog(), images, masking.masked_BM, PATCH)
    assert found.equal(gather(whole, masking.masked_BM))
    assert found.shape[2] == Hog().outputs(PATCH, 3)


def test_the_loss_of_tokens_is_the_cross_entropy_of_the_right_code() -> None:
    logits, codes = torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    expected = -logits.double().log_softmax(-1).gather(2, codes[:, :, None]).mean()
    torch.testing.assert_close(
        cross_entropy(logits, codes).double(), expected, rtol=1e-6, atol=0
    )
    assert cross_entropy(logits.bfloat16(), codes).dtype == torch.float32


def test_a_pca_without_a_basis_predicts_nothing_and_asks_for_its_coefficients(
    images: Tensor,
) -> None:
    target = PatchPCA(5, PATCH, 3)
    assert target.outputs(PATCH, 3) == 5
    assert target(patchify(images, PATCH)).abs().max() == 0
    assert set(target.state_dict()) == {
        "mean_P",
        "basis_PK",
    }, "a checkpoint carries the basis"
