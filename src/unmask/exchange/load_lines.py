"""The whole line of code that loads written weights where they are wanted."""

from pathlib import Path
from typing import Any, NamedTuple

from unmask.exchange.facts import Facts
from unmask.exchange.fit import MLP_RATIO, overrides_for
from unmask.exchange.sizes import Geometry, Stack

# timm's names by the encoder's (width, depth, heads) and the patch size
TIMM_NAMES = {
    (192, 12, 3, 16): "vit_tiny_patch16_224",
    (384, 12, 6, 16): "vit_small_patch16_224",
    (768, 12, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16, 16): "vit_large_patch16_224",
    (1280, 32, 16, 14): "vit_huge_patch14_224",
}
# whose sizes are all overridden
TIMM_BASE = "vit_base_patch16_224"
TIMM_SIZE = 224


class Written(NamedTuple):
    """Weights that were written: their sizes, and the head they have.

    num_classes: 0 without a head. is_mean: whether the head classifies the mean of the
    patches; has_fc_norm: whether a norm follows it.
    """

    geometry: Geometry
    facts: Facts
    num_classes: int
    is_mean: bool
    has_fc_norm: bool

    @property
    def image_size(self) -> tuple[int, int]:
        rows, columns = self.geometry.grid
        return rows * self.geometry.patch_size, columns * self.geometry.patch_size


def timm_line(written: Written, path: Path) -> str:
    """Return the call that builds timm's model with these weights."""
    geometry, stack = written.geometry, written.geometry.encoder
    sizes = (stack.width, stack.depth, stack.heads, geometry.patch_size)
    name = TIMM_NAMES.get(sizes)
    arguments: dict[str, Any] = {}
    if written.image_size != (TIMM_SIZE, TIMM_SIZE):
        arguments["img_size"] = written.image_size
    if name is None:
        arguments |= {
            "patch_size": geometry.patch_size,
            "embed_dim": stack.width,
            "depth": stack.depth,
            "num_heads": stack.heads,
        }
    if stack.mlp_ratio != MLP_RATIO:
        arguments["mlp_ratio"] = stack.mlp_ratio
    if geometry.channels != 3:
        arguments["in_chans"] = geometry.channels
    arguments["num_classes"] = written.num_classes
    if written.is_mean:
        arguments["global_pool"] = "avg"
        # timm normalises after pooling by default
        if not written.has_fc_norm:
            arguments["fc_norm"] = False
    arguments["checkpoint_path"] = str(path)
    typed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"timm.create_model({name or TIMM_BASE!r}, {typed})"


def hub_line(architecture: str, path: Path) -> str:
    """Return the call that loads a Hugging Face folder."""
    return f"transformers.{architecture}.from_pretrained({str(path)!r})"


def official_line(written: Written, path: Path) -> str:
    """Return the calls that load a file in the official code."""
    geometry, decoder = written.geometry, written.geometry.decoder
    height, width = written.image_size
    arguments: dict[str, Any] = {
        "img_size": height if height == width else (height, width),
        "patch_size": geometry.patch_size,
        "in_chans": geometry.channels,
        **_official_stack(geometry.encoder, ""),
    }
    if decoder:
        kind = "models_mae.MaskedAutoencoderViT"
        arguments |= _official_stack(decoder, "decoder_")
        if written.facts.target:
            arguments["norm_pix_loss"] = written.facts.target == "pixel_norm"
    else:
        kind = "models_vit.VisionTransformer"
        arguments["num_classes"] = written.num_classes
        arguments["qkv_bias"] = True
        if written.is_mean:
            arguments["global_pool"] = True
    arguments["mlp_ratio"] = geometry.encoder.mlp_ratio
    typed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return (
        f"model = {kind}({typed}, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6));"
        f" model.load_state_dict(torch.load({str(path)!r})['model'])"
    )


def _official_stack(stack: Stack, prefix: str) -> dict[str, int]:
    return {
        f"{prefix}embed_dim": stack.width,
        f"{prefix}depth": stack.depth,
        f"{prefix}num_heads": stack.heads,
    }


def own_line(written: Written, path: Path) -> str:
    """Return the command that starts a run of this project from a file."""
    height, width = written.image_size
    size = f"{height}" if height == width else f"[{height},{width}]"
    return (
        f"python src/train.py init_from={path} {overrides_for(written.geometry)}"
        f" data.image_size={size}"
    )
