"""Make small weights as other projects save them, and models to load them into."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask.mae
from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.exchange.geometry import Hints
from unmask.exchange.sizes import Geometry, Stack, expected_shapes
from unmask.exchange.weights import Weights
from unmask.mae import MAE

TINY = Geometry(3, 2, (4, 4), Stack(32, 2, 4, 4.0), Stack(16, 2, 4, 4.0))
B = Geometry(3, 16, (14, 14), Stack(768, 2, 12, 4.0), Stack(512, 1, 16, 4.0))
L = Geometry(3, 16, (14, 14), Stack(1024, 2, 16, 4.0), Stack(512, 1, 16, 4.0))
H = Geometry(3, 14, (16, 16), Stack(1280, 2, 16, 4.0), Stack(512, 1, 16, 4.0))
FULL_B = Geometry(3, 16, (14, 14), Stack(768, 12, 12, 4.0), None)
# Shapes of the official code's blocks (timm 0.3.2's), in widths.
BLOCK = {
    "norm1.weight": (1,),
    "norm1.bias": (1,),
    "attn.qkv.weight": (3, 1),
    "attn.qkv.bias": (3,),
    "attn.proj.weight": (1, 1),
    "attn.proj.bias": (1,),
    "norm2.weight": (1,),
    "norm2.bias": (1,),
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4,),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1,),
}


def random_tensors(names: dict[str, Any]) -> dict[str, Tensor]:
    """Return random values of these shapes, large enough that every tensor matters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            0.05 * torch.randn(tuple(shape), generator=generator)
            + ("norm" in name and name.endswith("weight"))
        )
        for name, shape in names.items()
    }


def official_state(
    decoder: bool = False,
    head: str = "norm",
    width: int = 32,
    depth: int = 2,
    tokens: int = 17,
    patch: int = 2,
    channels: int = 3,
) -> dict[str, Tensor]:
    """Return a state dict like the official MaskedAutoencoderViT's, or VisionTransformer's."""

    def blocks(prefix: str, count: int, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.{i}.{name}": tuple(width * size for size in shape)
            for i in range(count)
            for name, shape in BLOCK.items()
        }

    names: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
        **blocks("blocks", depth, width),
    }
    if decoder:
        names |= {
            "mask_token": (1, 1, 16),
            "decoder_pos_embed": (1, tokens, 16),
            "decoder_embed.weight": (16, width),
            "decoder_embed.bias": (16,),
            **blocks("decoder_blocks", 2, 16),
            "decoder_norm.weight": (16,),
            "decoder_norm.bias": (16,),
            "decoder_pred.weight": (patch**2 * channels, 16),
            "decoder_pred.bias": (patch**2 * channels,),
        }
    norm_name = "fc_norm" if head == "fc_norm" else "norm"
    names |= {f"{norm_name}.weight": (width,), f"{norm_name}.bias": (width,)}
    if head in ("fc_norm", "cls"):
        names |= {"head.weight": (5, width), "head.bias": (5,)}
    if head == "probe":
        names |= {
            "head.0.running_mean": (width,),
            "head.1.weight": (5, width),
            "head.1.bias": (5,),
        }
    state = random_tensors(names)
    if head == "probe":
        state |= {
            "head.0.running_var": torch.rand(width) + 0.5,
            "head.0.num_batches_tracked": torch.tensor(7),
        }
    return state


ARGS = argparse.Namespace(
    blr=1.5e-4, model="mae_vit_base_patch16", mask_ratio=0.75, resume=""
)
HINTS = Hints(heads=4, decoder_heads=4)


def save_official(path: Path, state: dict[str, Any], **more: Any) -> Path:
    torch.save(
        {
            "model": state,
            "optimizer": {"state": {}},
            "epoch": 799,
            "args": ARGS,
            **more,
        },
        path,
    )
    return path


def build_weights(geometry: Geometry) -> Weights:
    named = random_tensors(expected_shapes(geometry))
    parts = {
        part: {
            n.removeprefix(f"{part}."): v
            for n, v in named.items()
            if n.startswith(part)
        }
        for part in ("encoder", "decoder")
    }
    return Weights(
        parts["encoder"], parts["decoder"] or None, None, geometry, "safetensors", None
    )


def build_encoder(
    geometry: Geometry, grid: tuple[int, int] | None = None, **other: int
) -> Encoder:
    size = geometry.encoder
    values = {
        "patch_size": geometry.patch_size,
        "channels": geometry.channels,
        "width": size.width,
        "depth": size.depth,
        "heads": size.heads,
        **other,
    }
    with torch.device("meta"):
        encoder = Encoder(grid or geometry.grid, **values)
    return encoder.to_empty(device="cpu").eval()


def build_mae(geometry: Geometry) -> MAE:
    size, patch = geometry.decoder, geometry.patch_size**2 * geometry.channels
    assert size
    with pytest.MonkeyPatch.context() as context, torch.device("meta"):
        context.setattr(unmask.mae, "initialise", lambda model, seed: None)
        decoder = Decoder(
            geometry.grid,
            geometry.encoder.width,
            patch,
            size.width,
            size.depth,
            size.heads,
        )
        model = MAE(
            Encoder(
                geometry.grid,
                geometry.patch_size,
                geometry.channels,
                geometry.encoder.width,
                geometry.encoder.depth,
                geometry.encoder.heads,
            ),
            decoder,
        )
    return model.to_empty(device="cpu").eval()


def equal_tensors(
    one: dict[str, Tensor] | None, other: dict[str, Tensor] | None
) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        torch.equal(one[n], other[n]) and one[n].dtype == other[n].dtype for n in one
    )


def random_images(geometry: Geometry, count: int = 1) -> Tensor:
    rows, columns = (side * geometry.patch_size for side in geometry.grid)
    return torch.randn(
        count,
        geometry.channels,
        rows,
        columns,
        generator=torch.Generator().manual_seed(1),
    )


def loaded_completely(info: dict[str, Any]) -> bool:
    return not any(
        info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
