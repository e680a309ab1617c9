"""Write weights for others: the official code, Hugging Face, timm, or safetensors."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from unmask.exchange.hf_config import hub_config, hub_preprocessor, model_card
from unmask.exchange.kernels import shape_text, split_qkv, to_conv_kernel
from unmask.exchange.load_lines import (
    Written,
    hub_line,
    official_line,
    own_line,
    timm_line,
)
from unmask.exchange.names import (
    PATCH_KERNEL,
    name_table,
    split_name,
    translate_name,
)
from unmask.exchange.weight_files import WritableLayout, check_target
from unmask.exchange.weights import Report, Weights
from unmask.storage.atomic import atomic_write, write_json, write_text

# Of the linear probe (MAE A.1).
BATCH_NORM_EPS = 1e-6
FOLDED_NOTE = (
    "the probe's BatchNorm is folded into its Linear: equal to rounding,"
    " not bit for bit"
)


def write_weights(
    weights: Weights, path: Path, layout: WritableLayout, overwrite: bool = False
) -> Report:
    """Write the weights atomically, and report what was done to them.

    Raises ValueError if something is at the target, or the layout cannot express
    what these weights do.
    """
    check_target(path, layout, overwrite)
    tensors, report = _convert(weights, layout)
    written = _describe(weights)
    line = _load_line(written, layout, path, weights)
    # in files that others get, without the folders of this machine
    short_line = _load_line(written, layout, Path(path.name), weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    # With this record the file can be read back without hints.
    facts = weights.facts.to_record()
    geometry = asdict(weights.geometry)
    record = {"geometry": geometry, "pool": weights.pool, "facts": facts}
    metadata = {"format": "pt", **_as_text(facts), "load": short_line}
    notes = (*report.notes, *_fact_notes(weights, layout))
    if layout == "hf":
        _save_folder(path, tensors, metadata, _hub_files(weights, written, short_line))
    elif layout == "safetensors" or (
        layout == "timm" and path.suffix == ".safetensors"
    ):
        _save_tensors(path, tensors, metadata | {"unmask": json.dumps(record)})
    else:
        key = "model" if layout == "official" else "state_dict"
        with atomic_write(path) as file:
            torch.save({key: tensors, "unmask": record}, file)
    return replace(report, notes=notes, load=line)


def _describe(weights: Weights) -> Written:
    head = weights.head or {}
    return Written(
        weights.geometry,
        weights.facts,
        num_classes=len(head["head.weight"]) if head else 0,
        is_mean=weights.pool == "mean",
        has_fc_norm="fc_norm.weight" in head,
    )


def _load_line(
    written: Written, layout: WritableLayout, path: Path, weights: Weights
) -> str:
    if layout == "hf":
        return hub_line(hub_config(weights)["architectures"][0], path)
    lines = {"timm": timm_line, "official": official_line, "safetensors": own_line}
    return lines[layout](written, path)


def _as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as a safetensors file holds them: text by text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts.items()
    }


def _fact_notes(weights: Weights, layout: WritableLayout) -> Iterator[str]:
    """Say what of the training is written, and what nobody knows."""
    facts = weights.facts
    known = [f"{k}={v}" for k, v in facts.to_record().items() if k != "classes"]
    if known:
        yield f"written too: {', '.join(known)}"
    if weights.decoder and facts.target is None and layout != "timm":
        yield (
            "the source does not say whether its decoder predicts pixels or pixels"
            " normalised by patch; add target=pixel or target=pixel_norm"
        )
    if layout == "hf" and (facts.mean is None or facts.std is None):
        usual = "ImageNet's are" if weights.geometry.channels == 3 else "none is"
        yield (
            "the source does not say by which mean and std images are normalised;"
            f" {usual} written"
        )
    if facts.license is None:
        published = ""
        if weights.layout == "official":
            published = " (what facebookresearch/mae published is CC BY-NC 4.0)"
        yield f"the source names no licence{published}; add license=NAME"


def _convert(
    weights: Weights, layout: WritableLayout
) -> tuple[dict[str, Tensor], Report]:
    """Convert names and shapes to the layout's, and report what was done.

    Raises ValueError if the layout cannot express what the weights do.
    """
    tensors = weights.named_tensors()
    if layout == "safetensors":
        copies = {name: _copy(value) for name, value in tensors.items()}
        return copies, Report(tuple(tensors))
    _check_expressible(weights, layout)
    dropped = _unused_tensors(tensors, layout)
    tensors = {name: value for name, value in tensors.items() if name not in dropped}
    notes = []
    reshaped = {}
    # the official layout keeps a probe's BatchNorm
    if layout != "official" and "norm.running_mean" in tensors:
        folded = _fold_batch_norm(tensors)
        reshaped = dict.fromkeys(folded, "BatchNorm folded in")
        notes.append(FOLDED_NOTE)
        rest = (name for name in tensors if not name.startswith("norm."))
        tensors = {name: tensors[name] for name in rest} | folded
    matrix = tensors[PATCH_KERNEL]
    kernel = to_conv_kernel(matrix, weights.geometry.patch_size)
    reshaped[PATCH_KERNEL] = f"{shape_text(matrix)} -> {shape_text(kernel)}"
    converted = tensors | {PATCH_KERNEL: kernel}
    # Hugging Face keeps query, key and value apart.
    if layout == "hf":
        for name, value in tensors.items():
            if len(split_name(name)) == 3:
                piece = value.chunk(3)[0]
                reshaped[name] = f"{shape_text(value)} -> 3 x {shape_text(piece)}"
        converted = split_qkv(converted)
    matched = tuple(name for name in tensors if name not in reshaped)
    report = Report(matched, reshaped, dropped=dropped, notes=tuple(notes))
    # Hugging Face's models with a decoder or a head hold the encoder as `vit`.
    has_more = weights.decoder or weights.head
    prefix = "vit." if layout == "hf" and has_more else ""
    return _rename(converted, layout, prefix), report


def _rename(
    tensors: dict[str, Tensor], layout: WritableLayout, prefix: str
) -> dict[str, Tensor]:
    """Copy to the layout's names; prefix: of all but the decoder and the head."""
    table = name_table(layout, probe="norm.running_mean" in tensors)
    renamed = {}
    for name, value in tensors.items():
        theirs = cast(str, translate_name(name, table))
        if not theirs.startswith(("decoder.", "classifier.")):
            theirs = prefix + theirs
        renamed[theirs] = _copy(value)
    return renamed


def _copy(tensor: Tensor) -> Tensor:
    """Copy to memory of its own: a view would take all of its base into the file."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _check_expressible(weights: Weights, layout: WritableLayout) -> None:
    after_pooling = "fc_norm.weight" in (weights.head or {})
    if weights.geometry.class_tokens != 1:
        raise ValueError(
            f"layout={layout} has one class token, these weights"
            f" {weights.geometry.class_tokens}; use layout=safetensors"
        )
    if layout == "hf" and weights.pool == "mean":
        raise ValueError(
            f"layout={layout}: Hugging Face's ViT classifies the class token, these"
            " weights the mean of the patches; use layout=timm"
        )
    rows, columns = weights.geometry.grid
    # transformers takes the square root of the number of patches.
    if layout == "hf" and weights.decoder and rows != columns:
        raise ValueError(
            f"Hugging Face's ViTMAE decodes square grids only, not {rows} x {columns};"
            " use another layout"
        )
    if layout == "official" and weights.pool == "mean" and not after_pooling:
        raise ValueError(
            f"layout={layout}: the official classifier has no mean without a norm after"
            " it; use layout=timm or layout=safetensors"
        )


def _unused_tensors(
    tensors: dict[str, Tensor], layout: WritableLayout
) -> dict[str, str]:
    """Return what the layout cannot hold, or the result does not need; why by name."""
    unused: dict[str, str] = {}
    if "fc_norm.weight" in tensors:
        for name in ("encoder.norm.weight", "encoder.norm.bias"):
            if name in tensors:
                unused[name] = "not used: the classifier normalises after pooling"
    if layout == "timm":
        for name in tensors:
            if name.startswith("decoder."):
                unused[name] = "timm's ViT has no decoder"
    return unused


def _fold_batch_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return BatchNorm (without affine) and Linear as one Linear.

    W (x - mean) / std + b = (W / std) x + (b - W mean / std), in float64 and rounded
    once.
    """
    weight = tensors["head.weight"]
    mean_D = tensors["norm.running_mean"].double()
    variance_D = tensors["norm.running_var"].double()
    weight_KD = weight.double() * (variance_D + BATCH_NORM_EPS).rsqrt()
    bias_K = tensors["head.bias"].double() - weight_KD @ mean_D
    return {
        "head.weight": weight_KD.to(weight.dtype),
        "head.bias": bias_K.to(weight.dtype),
    }


def _save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    with atomic_write(path) as file:
        file.write(safetensors_bytes(tensors, metadata))


def _hub_files(weights: Weights, written: Written, line: str) -> dict[str, Any]:
    """Return what stands beside the weights, by name; the config last."""
    files: dict[str, Any] = {"README.md": model_card(weights.facts, line)}
    preprocessor = hub_preprocessor(written)
    if preprocessor:
        files["preprocessor_config.json"] = preprocessor
    return files | {"config.json": hub_config(weights)}


def _save_folder(
    folder: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    files: dict[str, Any],
) -> None:
    folder.mkdir(exist_ok=True)
    # config.json comes last, and an older one goes first: a kill never leaves a config
    # beside the weights of another.
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    _save_tensors(folder / "model.safetensors", tensors, metadata)
    for name, content in files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            write_json(folder / name, content)
