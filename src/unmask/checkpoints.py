"""Checkpoint files that a kill, a full disk or a flipped bit cannot turn into a lost run.

A checkpoint is written beside its place, flushed to the disk, then renamed; `last.json` lists the kept ones with
their sha256, newest last. Loading takes the newest whose hash fits and sets damaged ones aside.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from unmask.durable import replacing, sha256, write_json

INDEX = "last.json"


def save(checkpoint: dict[str, Any], folder: Path, step: int, keep: int = 2) -> Path:
    """Write step=N.ckpt, point last.json to it and drop all but the newest `keep`.

    Raises OSError with the free and needed bytes where the file cannot be written; older checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step={step:08d}.ckpt"
    written = 0
    try:
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            finally:
                written = file.tell()
    except (OSError, RuntimeError) as error:  # torch's own zip writer turns a full disk into a RuntimeError
        free = shutil.disk_usage(folder).free
        raise OSError(
            f"cannot write {path}: {error} ({written:,} bytes written, {free:,} free); free some space and "
            f"type the same command again: earlier checkpoints are intact"
        ) from error
    # a kill before the index is written leaves a file that the index does not list: it is swept with the next save
    entry = {"file": path.name, "sha256": sha256(path), "step": step}
    older = [old for old in entries(folder) if old["file"] != path.name and (folder / old["file"]).exists()]
    kept = older[-(keep - 1) :] if keep > 1 else []
    write_json(folder / INDEX, [*kept, entry])
    sweep(folder, {old["file"] for old in [*kept, entry]})
    return path


def entries(folder: Path) -> list[dict[str, Any]]:
    """What last.json lists, oldest first; where it is missing or damaged, the files that open, with their hash now."""
    try:
        return json.loads((folder / INDEX).read_text())
    except (OSError, ValueError):
        paths = sorted(folder.glob("step=*.ckpt"))
        return [{"file": path.name, "sha256": sha256(path), "step": _step(path)} for path in paths if _opens(path)]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step="))


def _opens(path: Path) -> bool:
    try:
        load(path)
    except ValueError:
        return False
    return True


def prune(folder: Path) -> None:
    """Keep the newest alone: of a finished stage nobody needs more."""
    newest_entries = entries(folder)[-1:]
    write_json(folder / INDEX, newest_entries)
    sweep(folder, {entry["file"] for entry in newest_entries})


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove checkpoints that are not kept and what a kill left half-written."""
    for path in [*folder.glob("step=*.ckpt"), *folder.glob(".*.tmp")]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are renamed to *.damaged with a warning."""
    for entry in reversed(entries(folder)):
        path = folder / entry["file"]
        if not path.exists():
            continue
        if sha256(path) == entry["sha256"]:
            return path
        aside = path.replace(path.with_suffix(".damaged"))
        warnings.warn(f"{path.name} is damaged (its sha256 differs), set aside as {aside.name}", stacklevel=2)
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; only tensors and plain containers are unpickled.

    Raises ValueError where the file is not a checkpoint of this project or wants to run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"no checkpoint at {path}") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def weights(path: Path, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The state dict below `prefix`, without it."""
    state = load(path)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
