"""Read a file of any known layout, with every name and every shape accounted for."""

from pathlib import Path

import torch
from torch import Tensor

from unmask.exchange.files import intact_file, load_tensors
from unmask.exchange.geometry import Hints, ModelSizes
from unmask.exchange.kernels import flatten_kernel, fuse_qkv, shape_text
from unmask.exchange.names import PATCH_KERNEL
from unmask.exchange.outline import NO_HINTS, Outline, read_outline
from unmask.exchange.weights import Report, Weights


def read_weights(
    location: Path,
    hints: Hints = NO_HINTS,
    model: ModelSizes | None = None,
    choice: str | None = None,
) -> tuple[Weights, Report]:
    """Read the weights in a file or folder, and report what was done to them.

    The arguments and errors are those of `read_outline`; ValueError also for values
    that are no weights.
    """
    outline = read_outline(intact_file(location), hints, model, choice)
    stored = load_tensors(outline.header, outline.selection, outline.names)
    tensors = {ours: stored[name] for name, ours in outline.names.items()}
    tensors, reshaped = _convert(tensors, outline)
    if "fc_norm.weight" in outline.missing:
        width = outline.geometry.encoder.width
        tensors["fc_norm.weight"] = torch.ones(width)
        tensors["fc_norm.bias"] = torch.zeros(width)
    # the head's names have no prefix
    parts: dict[str, dict[str, Tensor]] = {"encoder.": {}, "decoder.": {}, "": {}}
    for name, value in tensors.items():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        parts[prefix][name.removeprefix(prefix)] = value
    weights = Weights(
        encoder=parts["encoder."],
        decoder=parts["decoder."] or None,
        head=parts[""] or None,
        geometry=outline.geometry,
        layout=outline.layout,
        pool=outline.pool,
        facts=outline.facts,
    )
    changed = {*reshaped, *outline.missing}
    matched = tuple(name for name in tensors if name not in changed)
    report = Report(matched, reshaped, outline.missing, outline.dropped, outline.notes)
    return weights, report


def _convert(
    tensors: dict[str, Tensor], outline: Outline
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fuse query, key and value, and flatten the patch embedding.

    Also returns what was reshaped.
    """
    if outline.layout in ("safetensors", "checkpoint"):
        return tensors, {}
    fused = fuse_qkv(tensors)
    reshaped = {}
    for name, value in fused.items():
        if name not in tensors:
            query = tensors[name.replace(".qkv.", ".q.")]
            reshaped[name] = f"3 x {shape_text(query)} -> {shape_text(value)}"
    kernel = tensors[PATCH_KERNEL]
    matrix = flatten_kernel(kernel)
    fused[PATCH_KERNEL] = matrix
    reshaped[PATCH_KERNEL] = f"{shape_text(kernel)} -> {shape_text(matrix)}"
    return fused, reshaped
