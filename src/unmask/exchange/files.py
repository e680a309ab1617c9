"""Opening files of others: tensors and plain values only, never code, and one sentence where that fails."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from unmask.storage import checkpoints

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
CONTAINERS = ("model", "state_dict")


@dataclass(frozen=True)
class Opened:
    """A file's tensors; `config` is a config.json beside it, `record` what this project noted when it wrote it."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    record: dict[str, Any]
    container: str | None  # the key under which a pickled file keeps its state dict


def open_weights(place: Path) -> Opened:
    """A file, a Hugging Face folder, or a stage's folder in the ledger. Raises ValueError in one sentence."""
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder")
    path = _file_in(place) if place.is_dir() else place
    beside = path.parent / "config.json"
    config = _json(beside) if place.is_dir() and beside.exists() else {}
    content, record = _content(path)
    held = isinstance(content, Mapping)
    container = next(
        (key for key in CONTAINERS if held and isinstance(content.get(key), Mapping)),
        None,
    )
    tensors = _tensors(content[container] if container else content, path)
    return Opened(path, tensors, config, record, container)


def _file_in(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    if list(folder.glob("*.index.json")):
        raise ValueError(
            f"{folder} holds weights in several shards; save them as one file first"
            " (max_shard_size)"
        )
    stage = folder if folder.name == "checkpoints" else folder / "checkpoints"
    newest = checkpoints.newest(stage) if stage.is_dir() else None
    if newest is None:
        raise ValueError(
            f"{folder} holds neither {' nor '.join(FOLDER_FILES)} nor checkpoints of a"
            " stage"
        )
    return newest


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not an object with keys"
        )
    return content


def _content(path: Path) -> tuple[Any, dict[str, Any]]:
    """What the file holds, by its first bytes rather than its suffix, and this project's record in it."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty: 0 bytes; copy or download it again")
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    if not start.startswith((b"PK", b"\x80")):
        raise ValueError(
            f"{path} is neither a PyTorch nor a safetensors file: it begins with"
            f" {start!r}"
        )
    content = unpickled(path)
    record = content.get("unmask", {}) if isinstance(content, dict) else {}
    return content, record if isinstance(record, dict) else {}


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    raw = path.read_bytes()
    try:
        tensors = load_safetensors(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        record = json.loads(header.get("__metadata__", {}).get("unmask", "{}"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    return tensors, record if isinstance(record, dict) else {}


def unpickled(path: Path, stubs: Sequence[tuple[type, str]] = ()) -> Any:
    """Tensors, plain containers and the official files' argparse.Namespace: its fields are data, it runs nothing.

    stubs: (class, name) for what the file calls by that name. Raises ValueError for anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *stubs]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds on what is not a checkpoint
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"{path} holds more than tensors: it wants {wanted.group(1)}; refused,"
                " and nothing of it was run"
            ) from None
        if "persistent_load" in str(error):
            raise ValueError(
                f"{path} holds a whole module in PyTorch's format before 1.6, which"
                " cannot be read without running it; load it where it comes from and"
                " save its state_dict()"
            ) from None
        raise ValueError(
            f"{path} is damaged or cut short; copy or download it again"
        ) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors")
    strange = [
        str(name) for name, value in content.items() if not isinstance(value, Tensor)
    ]
    if strange or not content:
        found = (
            f"these are no tensors: {', '.join(strange[:5])}"
            if strange
            else "it holds nothing"
        )
        raise ValueError(f"{path} is not a file of named tensors: {found}")
    for name, value in content.items():
        if value.layout != torch.strided:
            raise ValueError(
                f"{path}: {name} is a sparse tensor; weights are dense here, save it"
                " with .to_dense()"
            )
        if not name.endswith("num_batches_tracked") and not value.is_floating_point():
            raise ValueError(
                f"{path}: {name} is of {value.dtype}; weights are floating point"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{path}: {name} is not finite; nothing can be learnt from or with it"
            )
    return dict(content)
