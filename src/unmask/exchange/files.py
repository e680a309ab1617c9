"""Load the values of weights: tensors and plain values only, never code.

Whatever is wrong with a file is a ValueError of one sentence.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from unmask.exchange.header import Header
from unmask.exchange.selection import Selection, state_dict_at
from unmask.exchange.stand_ins import Stub
from unmask.exchange.weight_files import find_weights
from unmask.storage import checkpoints


def intact_file(location: Path) -> Path:
    """Return a stage's newest checkpoint whose sha256 is right; else the location.

    Damaged ones are set aside with a warning. Raises ValueError where none is left.
    """
    stage = location if location.name == "checkpoints" else location / "checkpoints"
    if stage.is_dir():
        if intact := checkpoints.newest(stage):
            return intact
        # where all are damaged by now it names them
        find_weights(location)
    return location


def load_tensors(
    header: Header, selection: Selection, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the named tensors of the selected weights; ValueError if one is unusable.

    They must be dense, finite, and floating point.
    """
    state = state_dict_at(load_content(header), selection.chosen.keys)
    tensors = {name: state[name] for name in names}
    for name, value in tensors.items():
        _check_tensor(name, value, header.path)
    return tensors


def load_content(header: Header) -> Any:
    """Return all that a file holds, or its shards together, on the CPU."""
    contents = [
        _load_safetensors(part)
        if header.is_safetensors
        else load_pickle(part, header.stubs)
        for part in header.parts
    ]
    if len(contents) == 1:
        return contents[0]
    return {name: value for content in contents for name, value in content.items()}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_safetensors(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def load_pickle(path: Path, stubs: Sequence[Stub] = ()) -> Any:
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
