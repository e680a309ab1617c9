"""Hugging Face's ViTMAE in the step benchmark."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from unmask.commands.bench.contestants.built import (
    BETAS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Built,
    decoder_mlp_ratio,
    truncated_ratio,
)
from unmask.exchange.names import LAYER_NORM_EPS


def build_vitmae(spec: dict[str, Any], attention: str) -> Built:
    """Build ViTMAEForPreTraining, with the optimiser of transformers' Trainer."""
    model, decoder = spec["model"], spec["decoder"]
    vitmae = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=model["width"],
            num_hidden_layers=model["depth"],
            num_attention_heads=model["heads"],
            intermediate_size=round(model["mlp_ratio"] * model["width"]),
            layer_norm_eps=LAYER_NORM_EPS,
            image_size=spec["image_size"],
            patch_size=spec["patch_size"],
            num_channels=spec["channels"],
            mask_ratio=truncated_ratio(spec),
            norm_pix_loss=spec["norm_pix"],
            decoder_hidden_size=decoder["width"],
            decoder_num_hidden_layers=decoder["depth"],
            decoder_num_attention_heads=decoder["heads"],
            decoder_intermediate_size=round(decoder_mlp_ratio(spec) * decoder["width"]),
            attn_implementation=attention,
        )
    )

    def loss(
        images_BCHW: Float[Tensor, "B C H W"], noise_BL: Float[Tensor, "B L"]
    ) -> Float[Tensor, ""]:
        return vitmae(images_BCHW, noise=noise_BL).loss

    return Built(vitmae, loss, _make_optimizer, "AdamW, fused", "hf")


def _make_optimizer(model: nn.Module) -> Optimizer:
    """Return AdamW as Trainer makes it: biases and LayerNorms are not decayed."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    # since torch 2.8 adamw_torch_fused is Trainer's default
    return AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
