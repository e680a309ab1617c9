"""The official code, imported from a checkout: https://github.com/facebookresearch/mae.

It was written for timm 0.3.2 and NumPy 1. Two names that have gone since are given back
in the process that imports it; nothing of it is changed or copied.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from timm.layers import set_fused_attn
from timm.models import vision_transformer
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from unmask.commands.bench.contestants.built import (
    BETAS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Built,
    truncated_ratio,
)
from unmask.encoder import LayerNorm

# decides which patches are hidden: the official code draws its noise itself
NOISE_SEED = 0


def import_official_code(folder: Path) -> Any:
    """Return the module models_mae of a checkout, made to run with today's packages."""
    block = vision_transformer.Block

    def block_with_scale(*args: Any, qk_scale: None = None, **named: Any) -> nn.Module:
        # None stands for the usual scale, the only one that there is now
        assert qk_scale is None
        return block(*args, **named)

    vision_transformer.Block = block_with_scale
    # NumPy 1's name of Python's float
    np.float = float  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    return importlib.import_module("models_mae")


def build_official(spec: dict[str, Any], attention: str) -> Built:
    """Build the official MAE, with the optimiser of its main_pretrain.py."""
    set_fused_attn(attention == "sdpa")
    models_mae = import_official_code(Path(spec["official"]))
    model, decoder = spec["model"], spec["decoder"]
    mae = models_mae.MaskedAutoencoderViT(
        img_size=spec["image_size"],
        patch_size=spec["patch_size"],
        in_chans=spec["channels"],
        embed_dim=model["width"],
        depth=model["depth"],
        num_heads=model["heads"],
        decoder_embed_dim=decoder["width"],
        decoder_depth=decoder["depth"],
        decoder_num_heads=decoder["heads"],
        mlp_ratio=model["mlp_ratio"],
        norm_layer=LayerNorm,
        norm_pix_loss=spec["norm_pix"],
    )
    ratio = truncated_ratio(spec)

    def loss(
        images_BCHW: Float[Tensor, "B C H W"], noise_BL: Float[Tensor, "B L"]
    ) -> Float[Tensor, ""]:
        # it draws the noise that the others are given
        torch.manual_seed(NOISE_SEED)
        return mae(images_BCHW, mask_ratio=ratio)[0]

    return Built(mae, loss, _make_optimizer, "AdamW", "official")


def _make_optimizer(model: nn.Module) -> Optimizer:
    groups = param_groups_weight_decay(model, WEIGHT_DECAY)
    return AdamW(groups, lr=LEARNING_RATE, betas=BETAS)
