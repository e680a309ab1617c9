"""Compare the ledger of a disturbed sweep with that of an undisturbed one.

They must be equal, and nothing else may be left.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from PIL import Image

from soak.sweep import Sweep
from unmask.commands.verify.compare import differing_names
from unmask.storage import checkpoints
from unmask.storage.atomic import sha256
from unmask.storage.checkpoints import BEST_FILE, INDEX_FILE
from unmask.storage.metrics_log import MACHINE_KEYS

# of a result: how long it took and when; not compared
TIMES = ("seconds", "finished")
# of a checkpoint: must be equal
CHECKPOINT_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")


class HasNotes(Protocol):
    notes: Any


def compare(quiet: Sweep, shaken: Sweep, outcome: HasNotes) -> list[str]:
    """Return what is wrong, a line each."""
    stages = sorted(
        path.parent.relative_to(quiet.ledger)
        for path in quiet.ledger.glob("*/*/result.json")
    )
    others = sorted(
        path.parent.relative_to(shaken.ledger)
        for path in shaken.ledger.glob("*/*/result.json")
    )
    if stages != others or not stages:
        return [
            f"finished stages differ: {stages} undisturbed, {others} in {shaken.ledger}"
        ]
    wrong = [
        f"{stage}: {fault}"
        for stage in stages
        for fault in _differences(quiet.ledger / stage, shaken.ledger / stage)
    ]
    outcome.notes["stages compared"] += len(stages)
    outcome.notes["checkpoints set aside as damaged"] += len(
        list(shaken.ledger.rglob("*.damaged"))
    )
    return wrong + list(leftovers(shaken.ledger))


def _differences(ours: Path, theirs: Path) -> Iterator[str]:
    one, two = (_result(folder) for folder in (ours, theirs))
    if one != two:
        yield f"results differ: {one} undisturbed, {two}"
    logs = [_rows(folder / "metrics.jsonl") for folder in (ours, theirs)]
    if logs[0] != logs[1]:
        yield f"metrics differ: {theirs / 'metrics.jsonl'}"
    for name in ("classes.csv", "confusion.csv", "rates.json", "basis.safetensors"):
        if _bytes(ours / name) != _bytes(theirs / name):
            yield f"{name} differs"
    if not (ours / "checkpoints").exists():
        return
    paths = [checkpoints.newest(folder / "checkpoints") for folder in (ours, theirs)]
    if paths[0] is None or paths[1] is None:
        yield f"no intact final checkpoint: {paths}"
        return
    yield from (
        f"final checkpoints differ in {key}" for key in _differing(paths[0], paths[1])
    )
    best = [
        sorted((folder / "checkpoints").glob("best=*.ckpt"))
        for folder in (ours, theirs)
    ]
    if [path.name for path in best[0]] != [path.name for path in best[1]]:
        yield f"best checkpoints differ: {best}"
    else:
        yield from (
            f"{one.name} differs in {key}"
            for one, two in zip(*best, strict=True)
            for key in _differing(one, two)
        )


def _differing(one: Path, two: Path) -> list[str]:
    first, second = checkpoints.load(one), checkpoints.load(two)
    return list(
        differing_names(
            {key: first.get(key) for key in CHECKPOINT_KEYS},
            {key: second.get(key) for key in CHECKPOINT_KEYS},
        )
    )


def _result(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in TIMES}


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read all rows but their speed; raise ValueError for a line that is cut."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in MACHINE_KEYS}
        for row in rows
    ]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def leftovers(ledger: Path) -> Iterator[str]:
    """Yield cut and temporary files, locks that are held, W&B runs that are doubled."""
    for path in sorted(ledger.rglob("*")):
        if "wandb" in path.relative_to(ledger).parts or path.is_dir():
            continue
        if path.name.startswith(".") or path.name.endswith((".tmp", "~")):
            yield f"a temporary file is left: {path}"
        elif error := _opening_error(path):
            yield f"{path} does not open: {error}"
    for result in sorted(ledger.glob("*/*/result.json")):
        folder = result.parent
        yield from (
            f"{path} is left though the stage is done"
            for path in folder.glob("error*.txt")
        )
        runs = len(list(folder.glob("wandb/offline-run-*")))
        if runs > 1:
            yield f"{folder}/wandb has {runs} runs of one stage"
    for path in ledger.glob("*/*/lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            yield f"{path} is held"
    for folder in sorted({path.parent for path in ledger.rglob("*.ckpt")}):
        yield from _hashes(folder)


def _hashes(folder: Path) -> Iterator[str]:
    """Yield checkpoints that differ from their index entry or have none."""
    indices = [
        json.loads(path.read_text())
        for path in (folder / INDEX_FILE, folder / BEST_FILE)
        if path.exists()
    ]
    entries = [
        entry
        for index in indices
        for entry in (index if isinstance(index, list) else [index])
    ]
    for entry in entries:
        path = folder / entry["file"]
        if not path.exists() or sha256(path) != entry["sha256"]:
            yield f"{path} is not what its index says"
    indexed = {entry["file"] for entry in entries}
    yield from (
        f"{path} is in no index"
        for path in folder.glob("*.ckpt")
        if path.name not in indexed
    )


def _load_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": _rows,
    ".ckpt": checkpoints.load,
    ".png": _load_image,
}


def _opening_error(path: Path) -> str | None:
    """Return why the file does not open; None where it does."""
    try:
        READERS.get(path.suffix, lambda _: None)(path)
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    return None
