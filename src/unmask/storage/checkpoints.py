"""Checkpoint files: no kill, full disk or flipped bit may cost the run.

A checkpoint is written atomically. `last.json` lists the kept ones with their sha256,
newest last. Loading takes the newest whose hash is right and sets damaged ones aside.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_crc32_options, set_crc32_options

from unmask.storage.atomic import atomic_write, sha256, write_json
from unmask.storage.remedies import explain

INDEX_FILE = "last.json"
BEST_FILE = "best.json"
# what a checkpoint without the optimiser's state holds
WEIGHTS_KEYS = ("state_dict", "global_step", "epoch", "unmask")
# in the index: the sha256 of the file before the optimiser's state was left out
WHOLE_FILE = "whole_sha256"


def save(checkpoint: dict[str, Any], folder: Path, step: int, keep: int = 2) -> Path:
    """Write step=N.ckpt, list it in last.json and remove all but the newest `keep`.

    Raises OSError, with the written and the free bytes, where the file cannot be
    written; older checkpoints then stay.
    """
    path = folder / f"step={step:08d}.ckpt"
    # after a kill at this point last.json lacks the new file; the next save removes it
    entry = _write(checkpoint, path)
    older = [old for old in _existing_entries(folder) if old["file"] != path.name]
    _keep([*older, entry][-keep:], folder)
    return path


def _write(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write the file; return its entry in the index."""
    written = free = 0
    # without torch's own checksums: the sha256 covers the whole file
    checksums = get_crc32_options()
    set_crc32_options(False)
    try:
        # not the stage's folder, too: where it is gone, its lock and its log are gone
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as file:
            try:
                torch.save(content, file)
            finally:
                written = file.tell()
                free = shutil.disk_usage(path.parent).free
    # torch's zip writer turns a full disk into a RuntimeError about positions
    except (OSError, RuntimeError) as error:
        cause = _system_error(error) or OSError("the disk is full or failing")
        reason = explain(cause, f" (after {written:,} bytes, {free:,} free)")
        older = index_entries(path.parent)
        resume = f"it goes on at {older[-1]['file']}" if older else "it begins anew"
        raise OSError(
            f"cannot write {path}: {reason}; then type the same command again: {resume}"
        ) from error
    finally:
        set_crc32_options(checksums)
    return _entry(path)


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the error of the system that this one came of; torch's say it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


def _entry(path: Path) -> dict[str, Any]:
    step = int(path.stem.partition("=")[2])
    return {"file": path.name, "sha256": sha256(path), "step": step}


def save_best(content: dict[str, Any], folder: Path, score: dict[str, float]) -> Path:
    """Write best=N.ckpt, name it and its score in best.json and remove the one before.

    Raises as `save` does.
    """
    path = folder / f"best={content['global_step']:08d}.ckpt"
    write_json(folder / BEST_FILE, _write(content, path) | score)
    _remove_former_best(folder)
    return path


def _remove_former_best(folder: Path) -> None:
    """Remove all best=*.ckpt but the one that best.json names."""
    best = read_best(folder)
    if best is None:
        return
    for path in folder.glob("best=*.ckpt"):
        if path.name != best["file"]:
            path.unlink(missing_ok=True)


def read_best(folder: Path) -> dict[str, Any] | None:
    """Return the entry of best.json: file, sha256, step and the score by its name.

    None where there is no such entry or its file is gone.
    """
    try:
        best = json.loads((folder / BEST_FILE).read_text())
        return best if (folder / best["file"]).exists() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_new_best(folder: Path, score: dict[str, float]) -> bool:
    """Return whether the score is better than the saved best, if there is one.

    score: one value by its name; accuracies are to be large, losses small.
    """
    ((name, value),) = score.items()
    best = (read_best(folder) or {}).get(name)
    if best is None:
        return True
    return value > best if "accuracy" in name else value < best


def index_entries(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of last.json (file, sha256, step), oldest first.

    Where last.json is missing or damaged: one for each checkpoint file that opens.
    """
    try:
        entries = json.loads((folder / INDEX_FILE).read_text())
        keys = {"file", "sha256", "step"}
        if entries and all(keys <= entry.keys() for entry in entries):
            return entries
    except (OSError, ValueError, TypeError, AttributeError):
        # missing, cut, or not JSON of this form
        pass
    return [_entry(path) for path in sorted(folder.glob("step=*.ckpt")) if _opens(path)]


def _existing_entries(folder: Path) -> list[dict[str, Any]]:
    return [
        entry for entry in index_entries(folder) if (folder / entry["file"]).exists()
    ]


def _opens(path: Path) -> bool:
    try:
        load(path)
    except ValueError:
        _set_aside(path, "it does not open")
        return False
    return True


def _set_aside(path: Path, reason: str) -> None:
    """Rename a damaged checkpoint to *.damaged and warn."""
    aside = path.replace(path.with_suffix(".damaged"))
    warnings.warn(
        f"{path.name} is damaged ({reason}), set aside as {aside.name}", stacklevel=3
    )


def keep_only_newest(folder: Path) -> None:
    """Remove all checkpoints of a finished stage but the newest and the best."""
    _keep(_existing_entries(folder)[-1:], folder)
    # a kill may have left one
    _remove_former_best(folder)


def _keep(entries: list[dict[str, Any]], folder: Path) -> None:
    """List these checkpoints; remove the others, and what a kill left of writing."""
    write_json(folder / INDEX_FILE, entries)
    listed = {entry["file"] for entry in entries}
    # Only files of checkpoints: other processes may be writing into the same folder,
    # such as their parts of a record of a non-finite step.
    temporary = [
        path
        for name in ("step=*.ckpt", "best=*.ckpt", INDEX_FILE, BEST_FILE)
        for path in folder.glob(f".{name}.*.tmp")
    ]
    for path in [*folder.glob("step=*.ckpt"), *temporary]:
        if path.name not in listed:
            path.unlink(missing_ok=True)


def keep_only_weights(folder: Path) -> None:
    """Leave the optimiser's state out of a finished stage's checkpoint.

    A kill in between leaves the old file or the new one. Raises ValueError where no
    checkpoint is intact, OSError where the disk is too full for a moment of both.
    """
    path = newest(folder)
    if path is None:
        raise ValueError(f"{folder} holds no undamaged checkpoint")
    (entry,) = [e for e in index_entries(folder) if e["file"] == path.name]
    content = load(path)
    kept = {key: content[key] for key in WEIGHTS_KEYS if key in content}
    with atomic_write(path) as file:
        torch.save(kept, file)
        file.flush()
        # the index knows both files before one replaces the other
        whole = entry.get(WHOLE_FILE, entry["sha256"])
        known = {"sha256": sha256(Path(file.name)), WHOLE_FILE: whole}
        write_json(folder / INDEX_FILE, [entry | known])
    keep_only_newest(folder)


def newest(folder: Path, to_go_on: bool = False) -> Path | None:
    """Return the newest intact checkpoint; set damaged ones aside with a warning.

    to_go_on: training needs the optimiser's state, which `keep_only_weights` removes.
    """
    for entry in reversed(_existing_entries(folder)):
        path = folder / entry["file"]
        digest = sha256(path)
        if digest in (entry["sha256"], entry.get(WHOLE_FILE)):
            if to_go_on and digest != entry.get(WHOLE_FILE, digest):
                continue
            return path
        _set_aside(path, "its sha256 differs")
    return None


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content on the CPU.

    Only tensors and plain containers are unpickled. Raises ValueError where there is no
    file, or the file is not a checkpoint of this project or wants to run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"no checkpoint at {path}") from None
    # zip, pickle and torch each raise errors of their own
    except Exception as error:
        # not torch's text: it advises to open the file without this protection
        reason = "cut, damaged, or another kind of file"
        if "GLOBAL" in str(error):
            reason = "it wants to run code, which is refused"
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def strip_prefix(
    state: dict[str, torch.Tensor], prefix: str
) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix`, named by what follows it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }
