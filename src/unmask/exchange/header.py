"""Open files of weights as far as their names and shapes, without torch.

A run is checked against them before anything starts. Whatever is wrong with a file is
a ValueError of one sentence.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.exchange.stand_ins import StoredTensor, Stub, unpickle_shapes

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
STAGE_FILES = "step=*.ckpt"
SAFETENSORS_START = 8  # bytes of the header's length


@dataclass(frozen=True)
class Header:
    """What is known of a file of weights without its values.

    tree: its content, with a StoredTensor for each tensor. config, preprocessor, card:
    config.json, preprocessor_config.json and README.md beside it, in a folder. record:
    what this project wrote into it. stubs: for what torch would refuse in it.
    """

    path: Path
    tree: Any
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    card: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    stubs: tuple[Stub, ...] = ()
    is_safetensors: bool = False


def read_header(location: Path) -> Header:
    """Read a file, a Hugging Face folder, or a stage's folder in the ledger.

    Raises ValueError.
    """
    if not location.exists():
        raise ValueError(f"{location}: no such file or folder")
    # beside a single file they may belong to something else
    beside: dict[str, Any] = {}
    path = location
    if location.is_dir():
        path = find_file(location)
        beside["config"] = _read_json(path.parent / "config.json")
        beside["preprocessor"] = _read_json(path.parent / "preprocessor_config.json")
        card = path.parent / "README.md"
        beside["card"] = card.read_text(errors="replace") if card.is_file() else ""
    # the first bytes decide what it is, rather than the suffix
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty: 0 bytes; copy or download it again")
    # a safetensors file begins with its header's length, then a JSON header
    if start[8:] == b"{" or path.suffix == ".safetensors":
        tree, record = _read_safetensors(path)
        return Header(path, tree, record=record, is_safetensors=True, **beside)
    # PyTorch's files are zips, and before version 1.6 pickles
    if not start.startswith((b"PK", b"\x80")):
        raise ValueError(
            f"{path} is neither a PyTorch nor a safetensors file: it begins with"
            f" {start!r}"
        )
    tree, stubs = unpickle_shapes(path)
    own = tree.get("unmask") if isinstance(tree, dict) else None
    record = own if isinstance(own, dict) else {}
    return Header(path, tree, record=record, stubs=tuple(stubs), **beside)


def find_file(folder: Path) -> Path:
    """Return the file of weights in a folder; ValueError where there is none."""
    for name in HUB_FILES:
        if (folder / name).is_file():
            return folder / name
    if list(folder.glob("*.index.json")):
        raise ValueError(
            f"{folder} holds weights in several shards; save them as one file first"
            " (max_shard_size)"
        )
    stage = folder if folder.name == "checkpoints" else folder / "checkpoints"
    files = sorted(stage.glob(STAGE_FILES))
    if not files:
        raise ValueError(
            f"{folder} holds neither {' nor '.join(HUB_FILES)} nor checkpoints of a"
            " stage"
        )
    return files[-1]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not an object with keys"
        )
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return names and shapes, and this project's record."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(SAFETENSORS_START), "little")
            header = json.loads(file.read(min(length, size)))
        metadata = header.pop("__metadata__", {})
        record = json.loads(metadata.get("unmask", "{}"))
        tree = {
            name: StoredTensor(tuple(entry["shape"]), str(entry["dtype"]))
            for name, entry in header.items()
        }
        ends = (entry["data_offsets"][1] for entry in header.values())
        missing = SAFETENSORS_START + length + max(ends, default=0) - size
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    if missing > 0:
        raise ValueError(f"{path} is damaged or cut short: {missing:,} bytes are gone")
    return tree, record if isinstance(record, dict) else {}
