"""Open files of weights: tensors and plain values only, never code.

Whatever is wrong with a file is a ValueError of one sentence.
"""

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

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Keys under which a pickled file may hold its state dict.
STATE_DICT_KEYS = ("model", "state_dict")


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors, and what is known of them.

    config: the config.json beside the file. record: what this project wrote into it.
    state_dict_key: under which key a pickled file holds its state dict.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    record: dict[str, Any]
    state_dict_key: str | None


def open_weights(location: Path) -> WeightsFile:
    """Open a file, a Hugging Face folder, or a stage's folder in the ledger.

    Raises ValueError.
    """
    if not location.exists():
        raise ValueError(f"{location}: no such file or folder")
    is_folder = location.is_dir()
    path = _file_in(location) if is_folder else location
    config_path = path.parent / "config.json"
    # Beside a single file it may belong to something else.
    config = _read_json(config_path) if is_folder and config_path.exists() else {}
    content, record = _load(path)
    key = None
    if isinstance(content, Mapping):
        keys = (key for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping))
        key = next(keys, None)
    tensors = _check_tensors(content[key] if key else content, path)
    return WeightsFile(path, tensors, config, record, key)


def _file_in(folder: Path) -> Path:
    for name in HUB_FILES:
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
            f"{folder} holds neither {' nor '.join(HUB_FILES)} nor checkpoints of a"
            " stage"
        )
    return newest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not an object with keys"
        )
    return content


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the file's content, and this project's record in it.

    The first bytes decide what it is, rather than the suffix.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty: 0 bytes; copy or download it again")
    # A safetensors file begins with 8 bytes of length, then a JSON header.
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return _load_safetensors(path)
    # PyTorch's files are zips, and before version 1.6 pickles.
    if not start.startswith((b"PK", b"\x80")):
        raise ValueError(
            f"{path} is neither a PyTorch nor a safetensors file: it begins with"
            f" {start!r}"
        )
    content = load_pickle(path)
    record = content.get("unmask", {}) if isinstance(content, dict) else {}
    return content, record if isinstance(record, dict) else {}


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = path.read_bytes()
    try:
        tensors = load_safetensors(content)
        header_end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:header_end])
        record = json.loads(header.get("__metadata__", {}).get("unmask", "{}"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    return tensors, record if isinstance(record, dict) else {}


def load_pickle(path: Path, stubs: Sequence[tuple[type, str]] = ()) -> Any:
    """Load tensors and plain containers on the CPU, without running any code.

    An argparse.Namespace is allowed too: the official files hold one, it is data and
    runs nothing. stubs: (class, name) for classes to use where the file names them.
    Raises ValueError for anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *stubs]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises a dozen kinds of errors on what is no checkpoint.
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds more than tensors: it wants {refused.group(1)}; refused,"
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


def _check_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the content if it is a state dict of dense, finite weights."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors")
    others = [
        str(name) for name, value in content.items() if not isinstance(value, Tensor)
    ]
    if others or not content:
        fault = "it holds nothing"
        if others:
            fault = f"these are no tensors: {', '.join(others[:5])}"
        raise ValueError(f"{path} is not a file of named tensors: {fault}")
    for name, value in content.items():
        _check_tensor(name, value, path)
    return dict(content)


def _check_tensor(name: str, value: Tensor, path: Path) -> None:
    if value.layout != torch.strided:
        raise ValueError(
            f"{path}: {name} is a sparse tensor; weights are dense here, save it"
            " with .to_dense()"
        )
    # BatchNorm's count of batches is the one integer of a state dict.
    if not name.endswith("num_batches_tracked") and not value.is_floating_point():
        raise ValueError(
            f"{path}: {name} is of {value.dtype}; weights are floating point"
        )
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(
            f"{path}: {name} is not finite; nothing can be learnt from or with it"
        )
