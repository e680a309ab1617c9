"""The target folder of a conversion: locked, checked, and continued."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from unmask.config.checks import ConfigError
from unmask.data.containers.convert import read_bad_images
from unmask.data.containers.index import INDEX_FILE, read_index
from unmask.data.containers.shard_records import ShardRecord, record_path
from unmask.data.containers.shard_tasks import ShardTask
from unmask.data.containers.writers import CHUNK_FOLDER_PREFIX
from unmask.data.listing.catalogue import PREPARED_FILE, PREPARING_FOLDER
from unmask.storage.atomic import write_json

LOCK_FILE = ".preparing.lock"
PLAN_FILE = "plan.json"


@contextlib.contextmanager
def lock_target(target: Path) -> Iterator[None]:
    """Make the folder and keep other conversions out of it within the block."""
    # the lock belongs to the open file: a killed process leaves no lock behind
    lock = FileLock(target / LOCK_FILE, timeout=0)
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"to={target}: another src/prepare.py writes there") from None
    except PermissionError as error:
        raise ConfigError(
            f"to={target}: no permission to write {error.filename}; choose another"
            " folder, or ask its owner for write permission"
        ) from None
    try:
        yield
    finally:
        lock.release()
    # after an error the file stays; it does no harm
    (target / LOCK_FILE).unlink(missing_ok=True)


def begin_or_continue(
    target: Path, facts: dict[str, Any], tasks: list[ShardTask], kind: str
) -> None:
    """Go on from what an earlier run left, or begin.

    facts: what is to be made. Raises ConfigError where the folder holds something else.
    """
    plan_path = target / PREPARING_FOLDER / PLAN_FILE
    prepared_path = target / PREPARED_FILE
    earlier_path = next(
        (path for path in (plan_path, prepared_path) if path.exists()), None
    )
    if earlier_path is None:
        others = [path.name for path in target.iterdir() if path.name != LOCK_FILE]
        if others:
            raise ConfigError(
                f"to={target}: it holds {others[0]} already; choose an empty folder"
            )
    else:
        earlier = json.loads(earlier_path.read_bytes())
        if earlier["plan"] != facts["plan"] and not _is_empty(target):
            raise ConfigError(
                f"to={target}: what it holds was made from other images or in another"
                f" way ({_describe_differences(earlier, facts)}); choose another"
                " folder, or remove it"
            )
    # files that were being written when the earlier run was killed
    for leftover in target.rglob(".*.tmp"):
        leftover.unlink()
    for leftover in list(target.rglob(f"{CHUNK_FOLDER_PREFIX}*")):
        shutil.rmtree(leftover)
    (target / PREPARING_FOLDER).mkdir(exist_ok=True)
    if earlier_path == prepared_path:
        sums = json.loads(prepared_path.read_bytes())["sha256"]
        _restore_records(target, tasks, kind, sums)
    write_json(plan_path, facts)


def _describe_differences(earlier: dict[str, Any], facts: dict[str, Any]) -> str:
    """Say how what was made differs from what is to be made.

    Earlier versions stored fewer facts.
    """
    differences = [
        f"{key} was {json.dumps(earlier[key])}, is {json.dumps(value)}"
        for key, value in facts.items()
        if key != "plan" and key in earlier and earlier[key] != value
    ]
    if differences:
        return "; ".join(differences)
    if facts.keys() <= earlier.keys():
        return "as many, but their names, sizes, classes or shards differ"
    return "how it was made is not on file"


def _is_empty(target: Path) -> bool:
    """Tell whether a conversion was begun there that has made nothing yet."""
    made = [
        path
        for path in target.iterdir()
        if path.name not in (PREPARING_FOLDER, LOCK_FILE)
    ]
    # a finished target has no folder of records
    if made:
        return False
    records = [
        path for path in (target / PREPARING_FOLDER).iterdir() if path.name != PLAN_FILE
    ]
    return not records


def _restore_records(
    target: Path, tasks: list[ShardTask], kind: str, sums: dict[str, str]
) -> None:
    """Write the records of a finished target again.

    Its shards are then verified, and damaged ones made again.
    """
    contents = read_index(target / INDEX_FILE, kind)
    if contents is None or contents.digests is None:
        return
    reasons = read_bad_images(target)
    for number, task in enumerate(tasks):
        indices = np.flatnonzero(contents.shard_ids == number).tolist()
        rows = [
            [
                contents.names[i],
                int(contents.labels[i]),
                int(contents.sizes[i]),
                int(contents.offsets[i]),
                None if contents.shapes is None else contents.shapes[i].tolist(),
            ]
            for i in indices
        ]
        digests = [contents.digests[i].tobytes().hex() for i in indices]
        bad = [[row[0], reasons[row[0]]] for row in rows if row[0] in reasons]
        record = ShardRecord(
            contents.shards[number].size, sums[task.name], rows, digests, bad
        )
        record.write(record_path(target, task))
