"""One table a layout, ours to theirs, read in both directions, so that out and back in is the identity.

`*` stands for a block's number. Three things differ in more than the name: the patch embedding is a convolution's
kernel elsewhere (ours: a matrix over pixels in the order row, column, channel), Hugging Face keeps query, key and
value apart, and the official probe's head is a sequence of BatchNorm and Linear.
"""

import re

import torch
from torch import Tensor

from unmask.exchange.weights import Layout

KERNEL = "encoder.patch_embed.weight"
PARTS = ("q", "k", "v")
SAME = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
ENCODER = {
    "encoder.cls_token": "cls_token",
    "encoder.pos_embed": "pos_embed",
    "encoder.patch_embed": "patch_embed.proj",
    "encoder.norm": "norm",
    **{f"encoder.blocks.*.{part}": f"blocks.*.{part}" for part in SAME},
}
DECODER = {
    "decoder.embed": "decoder_embed",
    "decoder.mask_token": "mask_token",
    "decoder.pos_embed": "decoder_pos_embed",
    "decoder.norm": "decoder_norm",
    "decoder.head": "decoder_pred",
    **{f"decoder.blocks.*.{part}": f"decoder_blocks.*.{part}" for part in SAME},
}
HEAD = {"fc_norm": "fc_norm", "head": "head"}
PROBE = {"fc_norm": "fc_norm", "norm": "head.0", "head": "head.1"}
HF_BLOCK = {
    "norm1": "layernorm_before",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HF = {
    "encoder.cls_token": "embeddings.cls_token",
    "encoder.pos_embed": "embeddings.position_embeddings",
    "encoder.patch_embed": "embeddings.patch_embeddings.projection",
    "encoder.norm": "layernorm",
    **{
        f"encoder.blocks.*.{ours}": f"encoder.layer.*.{theirs}"
        for ours, theirs in HF_BLOCK.items()
    },
    **{
        ours: f"decoder.{theirs}" for ours, theirs in DECODER.items() if "*" not in ours
    },
    **{
        f"decoder.blocks.*.{ours}": f"decoder.decoder_layers.*.{theirs}"
        for ours, theirs in HF_BLOCK.items()
    },
    "head": "classifier",
}
# transformers 5 spells parameters anew in memory, and saves decoder layers in a third
# way
CLASSIC = (
    (r"^vit\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.q_proj\.", ".attention.query."),
    (r"\.k_proj\.", ".attention.key."),
    (r"\.v_proj\.", ".attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
WRAPPED = ((r"^(module\.|_orig_mod\.)+", ""),)  # DistributedDataParallel, torch.compile
OWN = ((r"^model\.(features\.)?", ""),)
KIND = re.compile(r"\.(weight|bias|running_mean|running_var|num_batches_tracked)$")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
LEFT_OVER = {
    "pooler.dense.weight": "a layer on top of the features",
    "pooler.dense.bias": "a layer on top of the features",
    "embeddings.mask_token": "not used on whole images",
    "mask_token": "the decoder's, which the file does not hold",
}


def plain(name: str, layout: Layout) -> str:
    """The name without what wrappers put before it, in the one spelling that the tables know."""
    rules = {"hf": (*WRAPPED, *CLASSIC), "checkpoint": OWN}.get(layout, WRAPPED)
    for pattern, spelling in rules:
        name = re.sub(pattern, spelling, name)
    return name


def table(layout: Layout, probe: bool) -> dict[str, str]:
    """Ours to theirs, without the endings .weight and .bias; empty where the names are ours."""
    if layout in ("safetensors", "checkpoint"):
        return {}
    return HF if layout == "hf" else ENCODER | DECODER | (PROBE if probe else HEAD)


def renamed(name: str, names: dict[str, str]) -> str | None:
    """The name at the other side of the table, None where the table does not have it."""
    kind = KIND.search(name)
    stem = name[: kind.start()] if kind else name
    number = NUMBER.search(stem)
    other = names.get(NUMBER.sub("*", stem, count=1))
    if other is None:
        return None
    return (other.replace("*", number.group()) if number else other) + (
        kind.group() if kind else ""
    )


def apart(name: str) -> list[str]:
    """The names of query, key and value for a fused one; another's own."""
    return (
        [name.replace(".qkv.", f".{part}.") for part in PARTS]
        if ".qkv." in name
        else [name]
    )


def split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fused matrices as query, key and value."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        pieces = value.chunk(3) if ".qkv." in name else (value,)
        result.update(zip(apart(name), pieces, strict=True))
    return result


def fuse(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of split."""
    result = {}
    for name, value in tensors.items():
        if not re.search(r"\.attn\.[qkv]\.", name):
            result[name] = value
        elif ".attn.q." in name:
            whole = [
                tensors[name.replace(".attn.q.", f".attn.{part}.")] for part in PARTS
            ]
            result[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(whole)
    return result


def flat_kernel(kernel: Tensor) -> Tensor:
    """A convolution's (width, channel, row, column) as ours: (width, row * column * channel)."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


def conv_kernel(matrix: Tensor, patch_size: int) -> Tensor:
    """The inverse of flat_kernel."""
    return matrix.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2)
