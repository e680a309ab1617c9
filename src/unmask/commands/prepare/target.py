"""The target folder of a conversion: locked, checked, and continued."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unmask.commands.prepare.writers import CHUNK_FOLDER_PREFIX
from unmask.config.checks import ConfigError
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


def begin_or_continue(target: Path, facts: dict[str, Any]) -> None:
    """Go on from what an earlier call left, or begin.

    facts: what is to be made. Raises ConfigError where the folder holds something else.
    """
    plan_path = target / PREPARING_FOLDER / PLAN_FILE
    earlier: dict[str, Any] = {}
    for path in (plan_path, target / PREPARED_FILE):
        if not earlier and path.exists():
            earlier = json.loads(path.read_bytes())
    own_names = (PREPARING_FOLDER, LOCK_FILE)
    made = [path.name for path in target.iterdir() if path.name not in own_names]
    if made and not earlier:
        raise ConfigError(
            f"to={target}: it holds {made[0]} already; choose an empty folder"
        )
    if made and earlier["plan"] != facts["plan"]:
        raise ConfigError(
            f"to={target}: what it holds was made from other images or in another"
            f" way ({_describe_differences(earlier, facts)}); choose another"
            " folder, or remove it"
        )
    # files that were being written when the earlier call was killed
    for leftover in target.rglob(".*.tmp"):
        leftover.unlink()
    for leftover in list(target.rglob(f"{CHUNK_FOLDER_PREFIX}*")):
        shutil.rmtree(leftover)
    plan_path.parent.mkdir(exist_ok=True)
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
