"""Names of tensors in each layout: one table a layout, from this project's names.

Tables are read in both directions, so that writing and reading back is the identity;
`*` stands for a block's number. Three things differ in more than the name: the patch
embedding is a convolution's kernel elsewhere (here: a matrix over pixels in the order
row, column, channel), Hugging Face keeps query, key and value apart, and the head of
the official linear probe is a sequence of BatchNorm and Linear.
"""

import re

from unmask.exchange.sizes import Layout, Shape

# Of this project's LayerNorms, as of the official ones.
LAYER_NORM_EPS = 1e-6
PATCH_KERNEL = "encoder.patch_embed.weight"
QKV = ("q", "k", "v")
QKV_PIECE = re.compile(r"\.attn\.([qkv])\.")
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
# Of DistributedDataParallel, where it stands beside names without.
WRAPPERS = ((r"^(module\.)+", ""),)
# torch.compile, FSDP and activation checkpointing, of a whole model or of its blocks.
INNER_WRAPPERS = re.compile(
    r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# The attributes of this project's LightningModules.
TASK_PREFIXES = ((r"^features\.", ""),)
SUFFIX = re.compile(r"\.(weight|bias|running_mean|running_var|num_batches_tracked)$")
BLOCK_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Names that a file may hold beyond the model's, and why they are not needed.
KNOWN_EXTRAS = {
    "pooler.dense.weight": "a layer on top of the features",
    "pooler.dense.bias": "a layer on top of the features",
    "embeddings.mask_token": "not used on unmasked images",
    "mask_token": "the decoder's, which the file does not hold",
}


def strip_inner_wrappers(name: str) -> str:
    """Return the name without what wrappers of single modules add."""
    return INNER_WRAPPERS.sub("", name)


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


def converted_shapes(shapes: dict[str, Shape], layout: Layout) -> dict[str, Shape]:
    """Return the shapes that tensors of the layout have in this project.

    shapes: by this project's names, query, key and value still apart. Raises
    ValueError where the patch embedding is no square kernel.
    """
    if layout in ("safetensors", "checkpoint"):
        return shapes
    kernel = shapes[PATCH_KERNEL]
    if len(kernel) != 4 or kernel[2] != kernel[3]:
        raise ValueError(
            f"the patch embedding's kernel is {kernel}, not (width, channels, side,"
            " side)"
        )
    width, channels, side, _ = kernel
    converted = {}
    for name, shape in shapes.items():
        piece = QKV_PIECE.search(name)
        if piece is None:
            converted[name] = shape
        elif piece.group(1) == "q":
            fused = QKV_PIECE.sub(".attn.qkv.", name)
            pieces = [shapes[QKV_PIECE.sub(f".attn.{p}.", name)] for p in QKV]
            converted[fused] = (sum(p[0] for p in pieces), *shape[1:])
    return converted | {PATCH_KERNEL: (width, side * side * channels)}
