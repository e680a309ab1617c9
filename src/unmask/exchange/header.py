"""Open files of weights as far as their names and shapes, without torch.

A run is checked against them before anything starts. Whatever is wrong with a file is
a ValueError of one sentence.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmask.exchange.stand_ins import StoredTensor, Stub, unpickle_shapes
from unmask.exchange.weight_files import INDEX_ENDING, find_weights

SAFETENSORS_START = 8  # bytes of the header's length


@dataclass(frozen=True)
class Header:
    """What is known of a file of weights without its values.

    tree: its content, with a StoredTensor for each tensor. config, preprocessor, card:
    config.json, preprocessor_config.json and README.md beside it, in a folder. record:
    what this project wrote into it. stubs: for what torch would refuse in it. parts:
    the files that hold the tensors, several where path is an index of shards.
    """

    path: Path
    tree: Any
    parts: tuple[Path, ...] = ()
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
    path, parts = find_weights(location)
    # beside a single file they may belong to something else
    beside: dict[str, Any] = {}
    if location.is_dir() or path.name.endswith(INDEX_ENDING):
        beside["config"] = _read_json(path.parent / "config.json")
        beside["preprocessor"] = _read_json(path.parent / "preprocessor_config.json")
        card = path.parent / "README.md"
        beside["card"] = card.read_text(errors="replace") if card.is_file() else ""
    first, *others = [_read_part(part) for part in parts]
    if not others:
        return replace(first, path=path, parts=parts, **beside)
    tree = dict(first.tree)
    for other in others:
        repeated = next((name for name in other.tree if name in tree), None)
        if repeated:
            raise ValueError(f"{path} lists shards that both hold {repeated}")
        tree |= other.tree
    stubs = tuple(stub for part in (first, *others) for stub in part.stubs)
    return replace(first, path=path, tree=tree, stubs=stubs, parts=parts, **beside)


def _read_part(path: Path) -> Header:
    """Read a single file."""
    # the first bytes decide what it is, rather than the suffix
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty: 0 bytes; copy or download it again")
    # a safetensors file begins with its header's length, then a JSON header
    if start[8:] == b"{" or path.suffix == ".safetensors":
        tree, record = _read_safetensors(path)
        return Header(path, tree, record=record, is_safetensors=True)
    # PyTorch's files are zips, and before version 1.6 pickles
    if not start.startswith((b"PK", b"\x80")):
        raise ValueError(
            f"{path} is neither a PyTorch nor a safetensors file: it begins with"
            f" {start!r}"
        )
    tree, stubs = unpickle_shapes(path)
    own = tree.get("unmask") if isinstance(tree, dict) else None
    record = own if isinstance(own, dict) else {}
    return Header(path, tree, record=record, stubs=tuple(stubs))


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
