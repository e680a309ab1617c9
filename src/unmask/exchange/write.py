"""From Weights to a file that others load: the official code, Hugging Face, timm, or this project's own safetensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from unmask.exchange.account import shape
from unmask.exchange.hub import hub_config
from unmask.exchange.names import KERNEL, apart, conv_kernel, renamed, split, table
from unmask.exchange.weights import Report, Weights
from unmask.storage.atomic import replacing, write_json

Written = Literal["timm", "hf", "official", "safetensors"]
BATCH_NORM_EPS = 1e-6
UNUSED = "not used: the classifier normalises after pooling"


@dataclass(frozen=True)
class Content:
    """Tensors under the other layout's names, and how they came to be."""

    tensors: dict[str, Tensor]
    report: Report


def write(
    weights: Weights, path: Path, layout: Written, overwrite: bool = False
) -> Report:
    """Write atomically, and report.

    Raises ValueError where the target stands already, or the layout cannot say what these weights are.
    """
    refuse_existing(path, layout, overwrite)
    content = outward(weights, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"geometry": asdict(weights.geometry), "pool": weights.pool}
    if layout == "hf":
        _save_folder(path, content.tensors, hub_config(weights))
    elif layout == "safetensors" or (
        layout == "timm" and path.suffix == ".safetensors"
    ):
        _save_tensors(
            path, content.tensors, {"format": "pt", "unmask": json.dumps(record)}
        )
    else:
        container = "model" if layout == "official" else "state_dict"
        with replacing(path) as file:
            torch.save({container: content.tensors, "unmask": record}, file)
    return content.report


def refuse_existing(path: Path, layout: Written, overwrite: bool) -> None:
    """Raise ValueError where something stands at the target that may not, or could not, be replaced."""
    if layout not in get_args(Written):
        raise ValueError(f"layout={layout}: known are {', '.join(get_args(Written))}")
    if path.exists() and path.is_dir() != (layout == "hf"):
        kinds = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise ValueError(
            f"{path} is {kinds[0]}; layout={layout} writes {kinds[1]}: give another"
            " place"
        )
    occupied = any(path.iterdir()) if path.is_dir() else path.exists()
    if occupied and not overwrite:
        raise ValueError(f"{path} exists; give another place or add overwrite=true")


def outward(weights: Weights, layout: Written) -> Content:
    """The tensors as the layout has them; raises ValueError where it has no names for what they do."""
    named = weights.named()
    if layout == "safetensors":
        return Content(
            {name: _own(value) for name, value in named.items()}, Report(tuple(named))
        )
    _refuse_unspeakable(weights, layout)
    named, dropped, notes = _without_unused(named, weights, layout)
    named, folded, head_notes = _with_plain_head(named, layout)
    kernel = conv_kernel(named[KERNEL], weights.geometry.patch_size)
    reshaped = {KERNEL: f"{shape(named[KERNEL])} -> {shape(kernel)}"} | folded
    shaped = named | {KERNEL: kernel}
    if layout == "hf":
        reshaped |= {
            n: f"{shape(v)} -> 3 x {shape(v.chunk(3)[0])}"
            for n, v in named.items()
            if len(apart(n)) == 3
        }
        shaped = split(shaped)
    names = table(layout, probe="norm.running_mean" in shaped)
    prefix = "vit." if layout == "hf" and (weights.decoder or weights.head) else ""
    tensors = {
        _prefixed(cast(str, renamed(name, names)), prefix): _own(value)
        for name, value in shaped.items()
    }
    matched = tuple(name for name in named if name not in reshaped)
    return Content(
        tensors, Report(matched, reshaped, {}, dropped, (*notes, *head_notes))
    )


def _own(tensor: Tensor) -> Tensor:
    """With memory of its own: a view of a larger tensor would take all of it into the file."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _prefixed(name: str, prefix: str) -> str:
    return name if name.startswith(("decoder.", "classifier.")) else prefix + name


def _refuse_unspeakable(weights: Weights, layout: Written) -> None:
    after_pooling = "fc_norm.weight" in (weights.head or {})
    if layout == "hf" and weights.pool == "mean":
        raise ValueError(
            "Hugging Face's ViT classifies the class token, these weights the mean of"
            " the patches; use layout=timm"
        )
    rows, columns = weights.geometry.grid
    # transformers takes the root of the number of patches
    if layout == "hf" and weights.decoder and rows != columns:
        raise ValueError(
            f"Hugging Face's ViTMAE decodes square grids only, not {rows} x {columns};"
            " use another layout"
        )
    if layout == "official" and weights.pool == "mean" and not after_pooling:
        raise ValueError(
            "the official classifier has no mean without a norm after it; use"
            " layout=timm or safetensors"
        )


def _without_unused(
    named: dict[str, Tensor], weights: Weights, layout: Written
) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """Without what the layout has no place for and the result does not need."""
    dropped: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if "fc_norm.weight" in named:
        dropped |= dict.fromkeys(
            {"encoder.norm.weight", "encoder.norm.bias"} & named.keys(), UNUSED
        )
    if layout == "timm":
        dropped |= {
            name: "timm's ViT has no decoder"
            for name in named
            if name.startswith("decoder.")
        }
        pooled = "global_pool='avg'" + (
            "" if "fc_norm.weight" in named else ", fc_norm=False"
        )
        classes = len(named["head.weight"]) if weights.head else 0
        notes = (
            (
                "timm.create_model(...,"
                f" num_classes={classes}{', ' + pooled if weights.pool == 'mean' else ''})"
            ),
        )
    return (
        {name: value for name, value in named.items() if name not in dropped},
        dropped,
        notes,
    )


def _with_plain_head(
    named: dict[str, Tensor], layout: Written
) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """A probe's BatchNorm folded into its Linear, but for the official layout, which keeps both."""
    if layout == "official" or "norm.running_mean" not in named:
        return named, {}, ()
    folded = fold(named)
    rest = {
        name: value for name, value in named.items() if not name.startswith("norm.")
    }
    note = (
        "the probe's BatchNorm is folded into its Linear: equal to rounding, not bit"
        " for bit"
    )
    return rest | folded, dict.fromkeys(folded, "BatchNorm folded in"), (note,)


def fold(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorm (without affine) and Linear as one Linear, computed in float64 and rounded once."""
    scale_D = (head["norm.running_var"].double() + BATCH_NORM_EPS).rsqrt()
    weight_KD = head["head.weight"].double() * scale_D
    bias_K = head["head.bias"].double() - weight_KD @ head["norm.running_mean"].double()
    dtype = head["head.weight"].dtype
    return {"head.weight": weight_KD.to(dtype), "head.bias": bias_K.to(dtype)}


def _save_tensors(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str]
) -> None:
    with replacing(path) as file:
        file.write(safetensors_bytes(tensors, about))


def _save_folder(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]
) -> None:
    """config.json last, and an older one away first: a kill never leaves a config beside another's weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    _save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "config.json", config)
