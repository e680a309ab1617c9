"""Checkpoint files that a kill, a full disk or a flipped bit cannot turn into a lost run.

A checkpoint is written beside its place, flushed to the disk, then renamed; `last.json` lists the kept ones with
their sha256, newest last. Loading takes the newest whose hash fits and sets damaged ones aside.
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import get_crc32_options, set_crc32_options

from unmask.storage.atomic import replacing, sha256, write_json

INDEX, BEST = "last.json", "best.json"


def save(checkpoint: dict[str, Any], folder: Path, step: int, keep: int = 2) -> Path:
    """Write step=N.ckpt, point last.json to it and drop all but the newest `keep`.

    Raises OSError with the free and needed bytes where the file cannot be written; older checkpoints stay.
    """
    path = folder / f"step={step:08d}.ckpt"
    _write(checkpoint, path)
    # a kill before the index is written leaves a file that the index does not list: it
    # is swept with the next save
    entry = {"file": path.name, "sha256": sha256(path), "step": step}
    older = [
        old
        for old in entries(folder)
        if old["file"] != path.name and (folder / old["file"]).exists()
    ]
    kept = older[-(keep - 1) :] if keep > 1 else []
    write_json(folder / INDEX, [*kept, entry])
    sweep(folder, {old["file"] for old in [*kept, entry]})
    return path


def _write(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = free = 0
    try:
        with replacing(path) as file:
            try:
                _dump(content, file)
            finally:
                written, free = file.tell(), shutil.disk_usage(path.parent).free
    except (OSError, RuntimeError) as error:
        # torch's own zip writer turns a full disk into a RuntimeError about positions
        # in an archive
        reason = (
            os.strerror(error.errno)
            if isinstance(error, OSError) and error.errno
            else "the disk is full or failing"
        )
        whole = entries(path.parent)
        raise OSError(
            f"cannot write {path}: {reason} (after {written:,} bytes, {free:,} free);"
            " free some space and type the same command again: "
            + (f"it goes on at {whole[-1]['file']}" if whole else "it begins anew")
        ) from error


def _dump(content: dict[str, Any], file: BinaryIO) -> None:
    """Without the checksums of torch's own, which nothing reads: sha256 is taken of the whole file."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        torch.save(content, file)
    finally:
        set_crc32_options(before)


def save_best(content: dict[str, Any], folder: Path, score: dict[str, float]) -> Path:
    """Write best=N.ckpt and point best.json to it, with its score; the one before goes. Raises as `save`."""
    path = folder / f"best={content['global_step']:08d}.ckpt"
    _write(content, path)
    write_json(
        folder / BEST,
        {
            "file": path.name,
            "sha256": sha256(path),
            "step": content["global_step"],
            **score,
        },
    )
    _sweep_best(folder)
    return path


def _sweep_best(folder: Path) -> None:
    """Remove those that best.json does not name."""
    kept = best(folder)
    for path in folder.glob("best=*.ckpt") if kept else ():
        if kept and path.name != kept["file"]:
            path.unlink(missing_ok=True)


def best(folder: Path) -> dict[str, Any] | None:
    """What best.json says: file, sha256, step, and the score by its name; None where there is none, or no such file."""
    try:
        kept = json.loads((folder / BEST).read_text())
        return kept if (folder / kept["file"]).exists() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_best(folder: Path, score: dict[str, float]) -> bool:
    """Whether no better one is kept: accuracies are better when larger, losses when smaller."""
    ((name, value),) = score.items()
    before = (best(folder) or {}).get(name)
    return before is None or (value > before if "accuracy" in name else value < before)


def entries(folder: Path) -> list[dict[str, Any]]:
    """What last.json lists, oldest first; where it is missing or damaged, the files that open, with their hash now."""
    try:
        listed = json.loads((folder / INDEX).read_text())
        if listed and all(
            {"file", "sha256", "step"} <= entry.keys() for entry in listed
        ):
            return listed
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # not there, cut, or something else's
    paths = sorted(folder.glob("step=*.ckpt"))
    return [
        {"file": path.name, "sha256": sha256(path), "step": _step(path)}
        for path in paths
        if _opens(path)
    ]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step="))


def _opens(path: Path) -> bool:
    try:
        load(path)
    except ValueError:
        set_aside(path, "it does not open")
        return False
    return True


def set_aside(path: Path, why: str) -> None:
    aside = path.replace(path.with_suffix(".damaged"))
    warnings.warn(
        f"{path.name} is damaged ({why}), set aside as {aside.name}", stacklevel=3
    )


def prune(folder: Path) -> None:
    """Keep the newest alone: of a finished stage nobody needs more."""
    newest_entries = [
        entry for entry in entries(folder) if (folder / entry["file"]).exists()
    ][-1:]
    write_json(folder / INDEX, newest_entries)
    sweep(folder, {entry["file"] for entry in newest_entries})
    _sweep_best(folder)  # one that a kill left


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove checkpoints that are not kept and what a kill left half-written of them.

    Nothing else: into a record's folder the other processes write at the same time.
    """
    half = [
        path
        for name in ("step=*.ckpt", "best=*.ckpt", INDEX, BEST)
        for path in folder.glob(f".{name}.*.tmp")
    ]
    for path in [*folder.glob("step=*.ckpt"), *half]:
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
        set_aside(path, "its sha256 differs")
    return None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; only tensors and plain containers are unpickled.

    Raises ValueError where the file is not a checkpoint of this project or wants to run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"no checkpoint at {path}") from None
    except Exception as error:  # zip, pickle and torch each have their own
        # torch's text would advise to open the file with all that may be hidden in it
        refused = "GLOBAL" in str(error)
        reason = (
            "it wants to run code, which is refused"
            if refused
            else "cut, damaged, or another kind of file"
        )
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def weights(path: Path, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The state dict below `prefix`, without it."""
    return below(load(path)["state_dict"], prefix)


def below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }
