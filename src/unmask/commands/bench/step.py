"""Time a pretraining step beside Hugging Face's ViTMAE: same sizes, same images."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.commands.bench.measure import (
    Contestant,
    device_clock,
    median_ratio,
    time_in_turn,
)
from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import random_masking
from unmask.targets import NormalisedPixel, Pixel, targets_at

OURS = "unmask"
# makes one training step and returns its loss
Step = Callable[[], float]


def build_our_mae(spec: dict[str, Any]) -> tuple[MAE, Pixel | NormalisedPixel]:
    """Build this project's model in the given sizes, and its target."""
    model = spec["model"]
    decoder = spec["decoder"]
    patch = spec["patch_size"]
    side = spec["image_size"] // patch
    mae = MAE(
        Encoder(
            (side, side),
            patch,
            spec["channels"],
            model["width"],
            model["depth"],
            model["heads"],
        ),
        Decoder(
            (side, side),
            model["width"],
            # the decoder predicts every pixel of a patch
            patch**2 * spec["channels"],
            decoder["width"],
            decoder["depth"],
            decoder["heads"],
        ),
    )
    return mae, NormalisedPixel() if spec["norm_pix"] else Pixel()


def set_up_device(spec: dict[str, Any]) -> torch.device:
    """Return the device to measure on, and set torch's number of threads."""
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    if spec["device"] != "auto":
        return torch.device(spec["device"])
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def our_step(
    spec: dict[str, Any],
    images_BCHW: Float[Tensor, "B C H W"],
    noise_BL: Float[Tensor, "B L"],
) -> Step:
    """Return a step of this project's MAE: forward, backward and AdamW."""
    mae, target = build_our_mae(spec)
    mae.to(images_BCHW.device)
    optimizer = _build_optimizer(mae)

    def step() -> float:
        masking = random_masking(noise_BL, spec["mask_ratio"])
        loss = target.loss(
            mae(images_BCHW, masking),
            targets_at(target, images_BCHW, masking.hidden_BM, spec["patch_size"]),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # .item() waits for the device, as a loop that logs its loss does
        return loss.item()

    return step


def vitmae_step(
    spec: dict[str, Any],
    images_BCHW: Float[Tensor, "B C H W"],
    noise_BL: Float[Tensor, "B L"],
) -> Step:
    """Return the same step of Hugging Face's ViTMAE, with the same noise."""
    # transformers comes with the development packages only
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = spec["model"]
    decoder = spec["decoder"]
    vitmae = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=model["width"],
            num_hidden_layers=model["depth"],
            num_attention_heads=model["heads"],
            intermediate_size=4 * model["width"],
            image_size=spec["image_size"],
            patch_size=spec["patch_size"],
            num_channels=spec["channels"],
            mask_ratio=spec["mask_ratio"],
            norm_pix_loss=spec["norm_pix"],
            decoder_hidden_size=decoder["width"],
            decoder_num_hidden_layers=decoder["depth"],
            decoder_num_attention_heads=decoder["heads"],
            decoder_intermediate_size=4 * decoder["width"],
        )
    )
    vitmae.to(images_BCHW.device).train()
    optimizer = _build_optimizer(vitmae)

    def step() -> float:
        loss = vitmae(images_BCHW, noise=noise_BL).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    # betas of MAE's Table 8; the learning rate does not matter for speed
    return torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)


def compare_steps(spec: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return median, least and most seconds of a step, and the ratio to our step.

    The ratio is the median of the ratios in each round.
    """
    device = set_up_device(spec)
    num_patches = (spec["image_size"] // spec["patch_size"]) ** 2
    # random images: a step takes as long whatever it sees
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch"], spec["channels"], spec["image_size"], spec["image_size"])
    images_BCHW = torch.randn(shape, generator=generator).to(device)
    noise_BL = torch.rand(spec["batch"], num_patches, generator=generator).to(device)
    ours, vitmae = (
        make(spec, images_BCHW, noise_BL) for make in (our_step, vitmae_step)
    )
    contestants = {
        OURS: Contestant(lambda _: ours()),
        "transformers ViTMAE": Contestant(lambda _: vitmae()),
    }
    clock = device_clock(device)
    seconds = time_in_turn(contestants, spec["rounds"], warm_up=2, clock=clock)
    return {
        name: {
            "median": statistics.median(taken),
            "least": min(taken),
            "most": max(taken),
            "ratio": median_ratio(taken, seconds[OURS]),
        }
        for name, taken in seconds.items()
    }
