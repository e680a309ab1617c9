"""One pretraining step beside a peer's: same sizes, same images, in turn, in one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import random_masking
from unmask.targets import NormalisedPixel, Pixel, wanted_at

Step = Callable[[], float]


def our_mae(spec: dict[str, Any]) -> tuple[MAE, Pixel | NormalisedPixel]:
    """This project's model of the given sizes, and what it predicts."""
    model, decoder, patch = spec["model"], spec["decoder"], spec["patch_size"]
    side = spec["image_size"] // patch
    encoder = Encoder(
        (side, side),
        patch,
        spec["channels"],
        model["width"],
        model["depth"],
        model["heads"],
    )
    pixels = patch**2 * spec["channels"]
    mae = MAE(
        encoder,
        Decoder(
            (side, side),
            model["width"],
            pixels,
            decoder["width"],
            decoder["depth"],
            decoder["heads"],
        ),
    )
    return mae, NormalisedPixel() if spec["norm_pix"] else Pixel()


def device_of(spec: dict[str, Any]) -> torch.device:
    """Where to measure; with as many threads as are wanted."""
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    wanted = spec["device"]
    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    )


def our_step(spec: dict[str, Any], images_BCHW: Tensor, noise_BL: Tensor) -> Step:
    """Forward, backward and AdamW of this project's MAE."""
    mae, target = our_mae(spec)
    mae.to(images_BCHW.device)
    optimizer = torch.optim.AdamW(
        mae.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True
    )

    def step() -> float:
        masking = random_masking(noise_BL, spec["mask_ratio"])
        loss = target.loss(
            mae(images_BCHW, masking),
            wanted_at(target, images_BCHW, masking.masked_BM, spec["patch_size"]),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def vitmae_step(spec: dict[str, Any], images_BCHW: Tensor, noise_BL: Tensor) -> Step:
    """The same of Hugging Face's ViTMAEForPreTraining with the same noise."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model, decoder = spec["model"], spec["decoder"]
    peer = ViTMAEForPreTraining(
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
    peer.to(images_BCHW.device).train()
    optimizer = torch.optim.AdamW(
        peer.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True
    )

    def step() -> float:
        loss = peer(images_BCHW, noise=noise_BL).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def interleaved(
    steps: dict[str, Step], rounds: int, synchronise: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each contestant's step, in turn, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            synchronise()
            start = time.perf_counter()
            step()
            synchronise()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare_steps(spec: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Median, least and most seconds a step, and the median of the per-round ratios to the peer."""
    device = device_of(spec)
    side = spec["image_size"] // spec["patch_size"]
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch"], spec["channels"], spec["image_size"], spec["image_size"])
    images = torch.randn(shape, generator=generator).to(device)
    noise = torch.rand(spec["batch"], side * side, generator=generator).to(device)
    steps = {
        "unmask": our_step(spec, images, noise),
        "transformers ViTMAE": vitmae_step(spec, images, noise),
    }
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = interleaved(steps, spec["rounds"], synchronise)
    ours = seconds["unmask"]
    return {
        name: {
            "median": statistics.median(taken),
            "least": min(taken),
            "most": max(taken),
            "ratio": statistics.median(t / o for t, o in zip(taken, ours, strict=True)),
        }
        for name, taken in seconds.items()
    }
