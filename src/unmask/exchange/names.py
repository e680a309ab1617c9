"""Names of tensors in each layout: one table a layout, from this project's names.

Tables are read in both directions, so that writing and reading back is the identity;
`*` stands for a block's number. Three things differ in more than the name: the patch
embedding is a convolution's kernel elsewhere (here: a matrix over pixels in the order
row, column, channel), Hugging Face keeps query, key and value apart, and the head of
the official linear probe is a sequence of BatchNorm and Linear.
"""

import re

import torch
from torch import Tensor

from unmask.exchange.weights import Layout

PATCH_KERNEL = "encoder.patch_embed.weight"
QKV = ("q", "k", "v")
# Layers of a block that have the same names in timm and in the official code.
BLOCK_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
ENCODER_NAMES = {
    "encoder.cls_token": "cls_token",
    "encoder.pos_embed": "pos_embed",
    "encoder.patch_embed": "patch_embed.proj",
    "encoder.norm": "norm",
    **{f"encoder.blocks.*.{layer}": f"blocks.*.{layer}" for layer in BLOCK_LAYERS},
}
DECODER_NAMES = {
    "decoder.embed": "decoder_embed",
    "decoder.mask_token": "mask_token",
    "decoder.pos_embed": "decoder_pos_embed",
    "decoder.norm": "decoder_norm",
    "decoder.head": "decoder_pred",
    **{
        f"decoder.blocks.*.{layer}": f"decoder_blocks.*.{layer}"
        for layer in BLOCK_LAYERS
    },
}
HEAD_NAMES = {"fc_norm": "fc_norm", "head": "head"}
# The official probe's head is Sequential(BatchNorm1d, Linear).
PROBE_NAMES = {"fc_norm": "fc_norm", "norm": "head.0", "head": "head.1"}
HF_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HF_NAMES = {
    "encoder.cls_token": "embeddings.cls_token",
    "encoder.pos_embed": "embeddings.position_embeddings",
    "encoder.patch_embed": "embeddings.patch_embeddings.projection",
    "encoder.norm": "layernorm",
    **{
        f"encoder.blocks.*.{ours}": f"encoder.layer.*.{theirs}"
        for ours, theirs in HF_BLOCK_NAMES.items()
    },
    # Outside of the blocks ViTMAE's decoder has the official names.
    **{
        ours: f"decoder.{theirs}"
        for ours, theirs in DECODER_NAMES.items()
        if "*" not in ours
    },
    **{
        f"decoder.blocks.*.{ours}": f"decoder.decoder_layers.*.{theirs}"
        for ours, theirs in HF_BLOCK_NAMES.items()
    },
    "head": "classifier",
}
# transformers 5 has other names for parameters in memory, and saves decoder layers
# under third ones; each pattern leads back to the names of version 4.
HF_SPELLINGS = (
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
# DistributedDataParallel and torch.compile.
WRAPPERS = ((r"^(module\.|_orig_mod\.)+", ""),)
# The attributes of this project's LightningModules.
TASK_PREFIXES = ((r"^model\.(features\.)?", ""),)
SUFFIX = re.compile(r"\.(weight|bias|running_mean|running_var|num_batches_tracked)$")
BLOCK_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Names that a file may hold beyond the model's, and why they are not needed.
KNOWN_EXTRAS = {
    "pooler.dense.weight": "a layer on top of the features",
    "pooler.dense.bias": "a layer on top of the features",
    "embeddings.mask_token": "not used on unmasked images",
    "mask_token": "the decoder's, which the file does not hold",
}


def normalise_name(name: str, layout: Layout) -> str:
    """Return the name in the one spelling that the tables know, without wrappers."""
    rules: tuple[tuple[str, str], ...] = WRAPPERS
    if layout == "hf":
        rules = (*WRAPPERS, *HF_SPELLINGS)
    elif layout == "checkpoint":
        rules = TASK_PREFIXES
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def name_table(layout: Layout, probe: bool) -> dict[str, str]:
    """Return the table from this project's names to the layout's.

    The names have no endings like .weight and .bias. The table is empty where the
    layout has this project's names.
    """
    if layout in ("safetensors", "checkpoint"):
        return {}
    if layout == "hf":
        return HF_NAMES
    return ENCODER_NAMES | DECODER_NAMES | (PROBE_NAMES if probe else HEAD_NAMES)


def translate_name(name: str, table: dict[str, str]) -> str | None:
    """Translate a name by a table, its block number and ending included.

    None: the table does not have it.
    """
    match = SUFFIX.search(name)
    suffix = match.group() if match else ""
    stem = name.removesuffix(suffix)
    number = BLOCK_NUMBER.search(stem)
    translated = table.get(BLOCK_NUMBER.sub("*", stem, count=1))
    if translated is None:
        return None
    if number:
        translated = translated.replace("*", number.group())
    return translated + suffix


def split_name(name: str) -> list[str]:
    """Return the names of query, key and value for a fused one, else the name."""
    if ".qkv." not in name:
        return [name]
    return [name.replace(".qkv.", f".{part}.") for part in QKV]


def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split fused matrices into query, key and value."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        pieces = value.chunk(3) if ".qkv." in name else (value,)
        result.update(zip(split_name(name), pieces, strict=True))
    return result


def fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fuse query, key and value: the inverse of split_qkv."""
    result = {}
    for name, value in tensors.items():
        if not re.search(r"\.attn\.[qkv]\.", name):
            result[name] = value
        # The query stands for all three.
        elif ".attn.q." in name:
            pieces = [
                tensors[name.replace(".attn.q.", f".attn.{part}.")] for part in QKV
            ]
            result[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(pieces)
    return result


def flatten_kernel(kernel: Tensor) -> Tensor:
    """Turn a convolution's (width, channel, row, column) into this project's matrix.

    Returns (width, row * column * channel).
    """
    return kernel.permute(0, 2, 3, 1).flatten(1)


def to_conv_kernel(matrix: Tensor, patch_size: int) -> Tensor:
    """Return the convolution's kernel: the inverse of flatten_kernel."""
    return matrix.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2)
