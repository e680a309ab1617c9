"""Tokens are in the order of patches, come from nearby pixels, and use many codes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unmask.data.loading.in_memory import load_arrays
from unmask.mae import num_parameters
from unmask.patches import patchify, unpatchify
from unmask.randomness import make_key, uniform
from unmask.tokenizers import (
    DallEEncoder,
    DallETokenizer,
    SmallTokenizer,
    lanczos_resize,
)

GRID, PATCH = (6, 8), 4
SMALL_DALLE = {"codes": 64, "width": 16}


def rough(model: SmallTokenizer | DallEEncoder) -> SmallTokenizer | DallEEncoder:
    """Make every weight random, so that tokens differ."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.01
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def images() -> Tensor:
    """Return images whose patches have one strong colour each, with some noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(2, GRID[0] * GRID[1], 1, 3, generator=generator).expand(
        -1, -1, PATCH**2, -1
    )
    clean = unpatchify(colours.reshape(2, GRID[0] * GRID[1], -1), GRID, 3)
    return 2 * clean + 0.1 * torch.randn(clean.shape, generator=generator)


def digits(count: int) -> Tensor:
    train = load_arrays("mnist5k")[0].images_NCHW
    return (train[:: len(train) // count][:count].float() / 255 - 0.13) / 0.31


def noise(
    images: Tensor, model: SmallTokenizer, epoch: int = 0, first: int = 0
) -> Tensor:
    patches = images.shape[2] * images.shape[3] // model.patch_size**2
    ids = torch.arange(first, first + len(images))
    return uniform(make_key(0, "noise"), epoch, ids, patches * model.codes).unflatten(
        1, (patches, model.codes)
    )


def test_tokens_are_of_the_patches_in_their_order(images: Tensor) -> None:
    """A token depends on the pixels of its patch and of those beside it."""
    model = rough(SmallTokenizer(PATCH, 3, codes=64, width=16))
    before = model.tokens(images)
    assert before.shape == (2, patchify(images, PATCH).shape[1])
    assert len(before.unique()) > 4
    for row, column in [(0, 0), (2, 5), (5, 7)]:
        changed, token = images.clone(), row * GRID[1] + column
        changed[
            :, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH
        ] += 5
        logits, moved = (model.logits(x).flatten(2) for x in (images, changed))
        differs = (logits - moved).abs().amax(dim=(0, 1)) > 0
        near = torch.zeros(GRID, dtype=torch.bool)
        near[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
        assert differs[token]
        assert not differs[~near.flatten()].any()


@pytest.mark.parametrize(
    ("patch", "channels"), [(2, 1), (3, 3), (4, 4), (6, 3), (12, 1)]
)
def test_any_patch_and_channels_give_back_an_image_of_the_same_shape(
    patch: int, channels: int
) -> None:
    model = SmallTokenizer(patch, channels, codes=16, width=16)
    images = torch.zeros(2, channels, 12, 24)
    tokens = model.tokens(images)
    assert tokens.shape == (2, (12 // patch) * (24 // patch))
    assert model.reconstruct(tokens, (12 // patch, 24 // patch)).shape == images.shape


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"patch_size=5 does not divide an image of 12 x 10 pixels"
    ):
        SmallTokenizer(5, 1).tokens(torch.zeros(1, 1, 12, 10))


def test_weights_are_a_function_of_the_seed_alone() -> None:
    one, same, other = (
        SmallTokenizer(4, 1, codes=32, seed=seed).state_dict() for seed in (3, 3, 4)
    )
    torch.manual_seed(1)
    again = SmallTokenizer(4, 1, codes=32, seed=3).state_dict()
    assert all(
        value.equal(same[name]) and value.equal(again[name])
        for name, value in one.items()
    )
    assert not any(
        value.equal(other[name])
        for name, value in one.items()
        if not name.endswith("bias")
    )


def test_every_weight_learns_from_the_loss_the_codebook_too(images: Tensor) -> None:
    model = SmallTokenizer(PATCH, 3, codes=32, width=16)
    model.loss(
        images, noise(images, model), temperature=1.0, usage_weight=0.1
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_cold_relaxations_cost_what_the_tokens_cost(images: Tensor) -> None:
    """With equal noise and at temperature 0 a mixture is its most probable code."""
    model = rough(SmallTokenizer(PATCH, 3, codes=32, width=16))
    equal_noise = torch.full((2, GRID[0] * GRID[1], 32), 0.5)
    hard = (model.reconstruct(model.tokens(images), GRID) - images).square().mean()
    torch.testing.assert_close(model.loss(images, equal_noise, temperature=1e-6), hard)


def test_the_loss_is_finite_for_the_extremes_of_the_noise(images: Tensor) -> None:
    model = SmallTokenizer(PATCH, 3, codes=32, width=16)
    edges = torch.tensor([0.0, 1 - 2.0**-24]).repeat(2, GRID[0] * GRID[1], 16)
    loss = model.loss(images, edges, temperature=1 / 16, usage_weight=0.1)
    loss.backward()
    assert loss.isfinite()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in model.parameters()
    )


def test_the_noise_is_a_gumbel_distribution(images: Tensor) -> None:
    """Scores plus noise are largest at each code with its probability (Gumbel-max)."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    model = SmallTokenizer(PATCH, 3, codes=4, width=16)
    drawn = uniform(make_key(0, "trick"), 0, torch.arange(500), 48 * 4).view(500, 48, 4)
    mixtures: list[Tensor] = []
    scores = probabilities.log().view(1, 4, 1, 1).expand(500, 4, *GRID)
    model.logits = lambda x: scores  # type: ignore[method-assign]
    model.decode = lambda weights, grid: (
        mixtures.append(weights) or torch.zeros(500, 3, 24, 32)
    )  # type: ignore
    model.loss(torch.zeros(500, 3, 24, 32), drawn, temperature=0.01)
    chosen = torch.bincount(mixtures[0].argmax(dim=2).flatten(), minlength=4) / (
        500 * 48
    )
    torch.testing.assert_close(chosen, probabilities, atol=0.01, rtol=0)


def test_even_usage_costs_nothing_and_a_single_code_the_logarithm_of_all(
    images: Tensor,
) -> None:
    model = rough(SmallTokenizer(PATCH, 3, codes=32, width=16))

    def price(logits: Tensor) -> float:
        scores = logits.expand(2, 32, *GRID)
        model.logits = lambda x: scores  # type: ignore[method-assign]
        drawn = noise(images, model)
        return (
            model.loss(images, drawn, 1.0, usage_weight=1.0)
            - model.loss(images, drawn, 1.0)
        ).item()

    single = torch.zeros(1, 32, 1, 1)
    single[:, 7] = 50
    assert price(torch.zeros(1, 32, 1, 1)) == pytest.approx(0, abs=1e-5)
    assert price(single) == pytest.approx(np.log(32), rel=1e-4)


def test_a_few_steps_on_digits_beat_the_mean_image_and_use_many_codes() -> None:
    torch.set_num_threads(1)
    images = digits(256)
    model = SmallTokenizer(PATCH, 1, codes=64, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    blank = (images - images.mean(dim=0)).square().mean()
    for step in range(64):
        batch = images[step % 8 :: 8]
        loss = model.loss(
            batch, noise(batch, model, step), 2 * 32 ** (-step / 64), usage_weight=0.3
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = model.tokens(images)
    error = (model.reconstruct(tokens, (7, 7)) - images).square().mean()
    assert error < 0.5 * blank
    assert len(tokens.unique()) > 16


def test_the_published_size_is_53_8_million_parameters_and_8192_codes() -> None:
    with torch.device("meta"):
        model = DallEEncoder()
    assert model.codes == 8192
    assert num_parameters(model) == 53_786_240
    state = model.state_dict()
    assert state["blocks.input.w"].shape == (256, 3, 7, 7)
    assert state["blocks.group_1.block_1.res_path.conv_1.w"].shape == (64, 256, 3, 3)
    assert state["blocks.group_4.block_1.id_path.w"].shape == (2048, 1024, 1, 1)
    assert state["blocks.output.conv.b"].shape == (8192,)
    assert "blocks.group_4.block_2.id_path.w" not in state


def test_beits_112_pixels_are_14_by_14_tokens() -> None:
    assert rough(DallEEncoder(**SMALL_DALLE)).tokens(
        torch.rand(1, 3, 112, 112)
    ).shape == (1, 14 * 14)


def test_images_that_do_not_fit_dalle_are_refused() -> None:
    model = DallEEncoder(**SMALL_DALLE)
    with pytest.raises(
        ValueError,
        match=r"1 channels and 32 x 32 pixels; DALL-E's encoder takes 3 channels",
    ):
        model.tokens(torch.zeros(1, 1, 32, 32))
    with pytest.raises(
        ValueError,
        match=r"3 channels and 30 x 32 pixels; .*multiples of 8: resize them first",
    ):
        model.tokens(torch.zeros(1, 3, 30, 32))
    with pytest.raises(
        ValueError,
        match=r"images of 4 channels; DALL-E's tokens are of 1 \(grey\) or 3",
    ):
        DallETokenizer(model, GRID, (0.5,) * 4, (0.5,) * 4)


def test_normalisation_is_undone_and_grey_is_all_three_colours(images: Tensor) -> None:
    encoder = rough(DallEEncoder(**SMALL_DALLE))
    # 8 x 8 a token already
    pixels = images.sigmoid().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    expected = encoder.tokens(pixels)
    assert len(expected.unique()) > 1
    assert DallETokenizer(encoder, GRID, mean, std).tokens(normalised).equal(expected)
    grey = pixels[:, :1]
    tokens = DallETokenizer(encoder, GRID, (0.5,), (0.25,)).tokens((grey - 0.5) / 0.25)
    assert tokens.equal(encoder.tokens(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("shape", [(16, 24), (64, 40), (48, 48)])
def test_resizing_is_pillows_lanczos(shape: tuple[int, int]) -> None:
    """BEiT resizes by Pillow's; compared on 32-bit floats, where nothing is rounded."""
    image = torch.rand(32, 48, generator=torch.Generator().manual_seed(1))
    pillow = Image.fromarray(image.numpy()).resize(
        (shape[1], shape[0]), Image.Resampling.LANCZOS
    )
    ours = lanczos_resize(image[None, None], shape)[0, 0]
    torch.testing.assert_close(
        ours, torch.from_numpy(np.array(pillow)), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("kind", ["small", "dalle"])
def test_tokens_are_exact_under_autocast(kind: str, images: Tensor) -> None:
    encoder = rough(DallEEncoder(**SMALL_DALLE))
    if kind == "small":
        model = rough(SmallTokenizer(PATCH, 3))
    else:
        model = DallETokenizer(encoder, GRID, (0.5,) * 3, (0.25,) * 3)
    exact = model.tokens(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.tokens(images).equal(exact)
