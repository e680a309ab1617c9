"""This project's MAE in the step benchmark."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from unmask import kernels
from unmask.commands.bench.contestants.built import (
    BETAS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Built,
    decoder_mlp_ratio,
    visible_patches,
)
from unmask.commands.bench.entries import FUSED, Settings
from unmask.config.hardware import Precision
from unmask.decoder import Decoder
from unmask.distributed.machine import keep_freed_memory
from unmask.encoder import Encoder
from unmask.kernels import Attention, Kernels
from unmask.mae import MAE
from unmask.masking import random_masking
from unmask.optim import OptimizerRecipe
from unmask.targets import NormalisedPixel, Pixel, targets_at
from unmask.training.kernel_choice import BlockShape, cached_choice


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
            model["mlp_ratio"],
        ),
        Decoder(
            (side, side),
            model["width"],
            # the decoder predicts every pixel of a patch
            patch**2 * spec["channels"],
            decoder["width"],
            decoder["depth"],
            decoder["heads"],
            decoder_mlp_ratio(spec),
        ),
    )
    return mae, NormalisedPixel() if spec["norm_pix"] else Pixel()


def build_ours(spec: dict[str, Any], optimizer: str = FUSED) -> Built:
    """Build this project's MAE, with the optimiser that it pretrains with."""
    mae, target = build_our_mae(spec)

    def loss(
        images_BCHW: Float[Tensor, "B C H W"], noise_BL: Float[Tensor, "B L"]
    ) -> Float[Tensor, ""]:
        masking = random_masking(noise_BL, spec["mask_ratio"])
        return target.loss(
            mae(images_BCHW, masking),
            targets_at(target, images_BCHW, masking.hidden_BM, spec["patch_size"]),
        )

    make = partial(_make_optimizer, spec["batch"], optimizer == FUSED)
    return Built(mae, loss, make, optimizer)


def _make_optimizer(batch: int, fused: bool, model: nn.Module) -> Optimizer:
    # a rate per 256 images, which the recipe scales to the batch
    recipe = OptimizerRecipe(
        "adamw", LEARNING_RATE * 256 / batch, batch, WEIGHT_DECAY, BETAS, 0, 10**9
    )
    optimizer, _ = recipe(model)
    if fused:
        return optimizer
    groups = [
        {"params": group["params"], "weight_decay": group["weight_decay"]}
        for group in optimizer.param_groups
    ]
    return AdamW(groups, lr=LEARNING_RATE, betas=BETAS)


def use_settings(
    settings: Settings, spec: dict[str, Any], precision: Precision
) -> None:
    """Let this process compute as the settings say. GPUs have none of these choices."""
    if set_up_device(spec).type != "cpu":
        return
    shapes = block_shapes(spec)
    attention: dict[int, Attention] = {shape.tokens: "fused" for shape in shapes}
    choice = cached_choice(shapes, precision == "bf16-mixed")
    measured = choice.kernels if choice else Kernels()
    linear = measured.linear if settings.linear == "measured" else settings.linear
    if settings.measures_attention:
        attention = measured.attention
    # what was typed goes before what was measured
    is_free = settings == Settings() and not spec["threads"]
    threads = measured.threads if is_free else None
    kernels.use(Kernels(settings.blocks, linear, attention, threads))
    # not before: what measuring took would be kept, too
    if settings.keeps_memory:
        keep_freed_memory()


def block_shapes(spec: dict[str, Any]) -> list[BlockShape]:
    """Return what passes through the encoder's and the decoder's blocks."""
    model, decoder, batch = spec["model"], spec["decoder"], spec["batch"]
    patches = (spec["image_size"] // spec["patch_size"]) ** 2
    return [
        BlockShape(
            batch,
            1 + visible_patches(spec),
            model["width"],
            model["heads"],
            model["mlp_ratio"],
            model["depth"],
        ),
        BlockShape(
            batch,
            1 + patches,
            decoder["width"],
            decoder["heads"],
            decoder_mlp_ratio(spec),
            decoder["depth"],
        ),
    ]


def set_up_device(spec: dict[str, Any]) -> torch.device:
    """Return the device to measure on, and set torch's number of threads."""
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    if spec["device"] != "auto":
        return torch.device(spec["device"])
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
