"""The model has the published sizes and costs and equals a plain implementation."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE, num_parameters
from unmask.masking import Masking
from unmask.patches import gather_tokens, patchify
from unmask.targets import NormalisedPixel, mean_squared_error

SIZES = {
    "B": (14, 16, 768, 12, 12),
    "L": (14, 16, 1024, 24, 16),
    "H": (16, 14, 1280, 32, 16),
}


def on_meta(size: str) -> tuple[Encoder, Decoder]:
    """Build the model's parts without memory or weights: shapes only."""
    side, patch, width, depth, heads = SIZES[size]
    with torch.device("meta"):
        encoder = Encoder((side, side), patch, 3, width, depth, heads)
        return encoder, Decoder(
            (side, side), width, patch**2 * 3, width=512, depth=8, heads=16
        )


@pytest.mark.parametrize(
    ("size", "millions"), [("B", 111.91), ("L", 329.54), ("H", 657.07)]
)
def test_models_have_the_published_numbers_of_parameters(
    size: str, millions: float
) -> None:
    assert (
        round(sum(num_parameters(part) for part in on_meta(size)) / 1e6, 2) == millions
    )


def test_fixed_positions_are_not_trained() -> None:
    assert (
        sum(num_parameters(part, trainable_only=True) for part in on_meta("B"))
        == 111_655_680
    )


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_the_default_decoder_costs_nine_per_cent_of_vit_l_per_token() -> None:
    """MAE Sec. 4.1, Table 1a and b: 9 % FLOPs per token against ViT-L."""
    encoder, decoder = on_meta("L")
    tokens = torch.empty(1, 197, 1024, device="meta")
    embedded = torch.empty(1, 197, 512, device="meta")
    large = flops(lambda: [block(tokens) for block in encoder.blocks])
    blocks = flops(lambda: [block(embedded) for block in decoder.blocks])
    ends = flops(lambda: (decoder.embed(tokens), decoder.head(embedded)))
    assert round(100 * (blocks + ends) / large) == 9


def test_a_quarter_of_the_patches_costs_the_encoder_less_than_a_quarter() -> None:
    encoder, _ = on_meta("L")
    images = torch.empty(1, 3, 224, 224, device="meta")
    visible = torch.empty(1, 49, dtype=torch.long, device="meta")
    ratio = flops(lambda: encoder(images, visible)) / flops(lambda: encoder(images))
    assert 0.24 < ratio < 0.255


def test_the_loss_equals_a_plain_implementation_in_float64(
    make_mae: Callable[..., MAE], images: Tensor, masking: Masking
) -> None:
    model, images = make_mae().double(), images.double()
    pred = model(images, masking)
    loss = mean_squared_error(
        pred, NormalisedPixel()(gather_tokens(patchify(images, 2), masking.hidden_BM))
    )
    plain_pred, plain_loss = plain_mae(
        {**model.state_dict()}, images, masking.hidden_BL, masking.visible_BV
    )
    expected = torch.stack(
        [row[index] for row, index in zip(plain_pred, masking.hidden_BM, strict=True)]
    )
    torch.testing.assert_close(pred, expected, rtol=1e-10, atol=1e-10)
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-6)


def plain_mae(
    weights: dict[str, Tensor], images: Tensor, hidden: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute predictions and loss as the paper words it, image by image.

    A convolution embeds the patches; the decoder sees the sequence in image order, with
    mask tokens for the hidden patches; the loss is one mean over hidden patches.
    """
    kernel = weights["encoder.patch_embed.weight"].view(32, 2, 2, 3).permute(0, 3, 1, 2)
    embedded = (
        F.conv2d(images, kernel, weights["encoder.patch_embed.bias"], stride=2)
        .flatten(2)
        .mT
    )
    embedded = embedded + weights["encoder.pos_embed"][:, 1:]
    predicted, losses = [], []
    for image, tokens, index, mask in zip(
        images, embedded, visible, hidden, strict=True
    ):
        encoded = plain_blocks(
            weights,
            "encoder",
            torch.cat([weights["encoder.cls_token"][0], tokens[index]]),
        )
        encoded = (
            encoded @ weights["decoder.embed.weight"].T + weights["decoder.embed.bias"]
        )
        sequence = weights["decoder.mask_token"][0].repeat(17, 1)
        sequence[0] = encoded[0]
        sequence[1 + index] = encoded[1:]
        decoded = plain_blocks(
            weights, "decoder", sequence + weights["decoder.pos_embed"][0]
        )
        pred = (
            decoded[1:] @ weights["decoder.head.weight"].T
            + weights["decoder.head.bias"]
        )
        patches = image.view(3, 4, 2, 4, 2).permute(1, 3, 2, 4, 0).reshape(16, 12)
        target = (patches - patches.mean(1, True)) / (
            patches.var(1, keepdim=True) + 1e-6
        ) ** 0.5
        predicted.append(pred)
        losses += ((pred - target) ** 2).mean(1)[mask]
    return torch.stack(predicted), torch.stack(losses).mean()


def plain_blocks(weights: dict[str, Tensor], part: str, tokens: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{part}.{name}.weight"].T + weights[f"{part}.{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        scaled = (x - x.mean(1, True)) / (
            x.var(1, correction=0, keepdim=True) + 1e-6
        ).sqrt()
        return (
            scaled * weights[f"{part}.{name}.weight"] + weights[f"{part}.{name}.bias"]
        )

    for i in range(2):
        queries, keys, values = linear(
            f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", tokens)
        ).chunk(3, dim=1)
        mixed = []
        for q, k, v in zip(
            queries.chunk(4, 1), keys.chunk(4, 1), values.chunk(4, 1), strict=True
        ):
            exponent = (q @ k.T / math.sqrt(q.shape[1])).exp()
            mixed.append(exponent / exponent.sum(1, True) @ v)
        tokens = tokens + linear(f"blocks.{i}.attn.proj", torch.cat(mixed, dim=1))
        inner = linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", tokens))
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        tokens = tokens + linear(f"blocks.{i}.mlp.fc2", gelu)
    return norm("norm", tokens)
