"""A stage's folder by the first digits of its fingerprint, wherever one is asked for.

`a784`, `pretrain/a784`, and both behind the path of a ledger, as `runs/pretrain/a784`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from unmask.config.recipes import STAGES
from unmask.config.section import PathText

# what conf/config.yaml sets runs_dir to
DEFAULT_LEDGER = "runs"
# two digits are the fewest that are taken for a prefix; twelve are a fingerprint
PREFIX = re.compile(r"[0-9a-f]{2,12}")
MAX_CANDIDATES = 5


def find_stages(typed: str, runs_dir: str | Path = DEFAULT_LEDGER) -> list[Path]:
    """Return the folders of all stages that a prefix stands for.

    typed: a prefix, behind a kind of stages or a ledger's path, if any.
    """
    before, _, prefix = typed.rstrip("/").rpartition("/")
    return [
        folder
        for kind in _kind_folders(before, Path(runs_dir))
        for folder in sorted(kind.glob(f"{prefix}*"))
        if folder.is_dir()
    ]


def _kind_folders(before: str, runs_dir: Path) -> Iterator[Path]:
    """Yield the folders of kinds of stages in which the prefix is looked for."""
    if before in STAGES:
        yield runs_dir / before
    elif before and Path(before).name in STAGES:
        yield Path(before)
    else:
        yield from (Path(before or runs_dir) / kind for kind in STAGES)


def resolve_stage(typed: str, runs_dir: str | Path = DEFAULT_LEDGER) -> str:
    """Return the stage's folder that a prefix stands for; other paths as they are.

    Raises ValueError where several stages begin so, and where none does.
    """
    before, _, prefix = typed.rstrip("/").rpartition("/")
    if not PREFIX.fullmatch(prefix) or Path(typed).exists():
        return typed
    found = find_stages(typed, runs_dir)
    if len(found) == 1:
        return str(found[0])
    if found:
        raise ValueError(f"{typed}: {len(found)} stages begin so: {_names(found)}")
    if before and before not in STAGES:
        # a path that is not there: whoever reads it says what it should be
        return typed
    raise ValueError(f"{typed}: {unknown_stage(runs_dir)}")


def unknown_stage(runs_dir: str | Path = DEFAULT_LEDGER) -> str:
    """Say that no stage has this fingerprint, and which there are."""
    known = find_stages("", runs_dir)
    if not known:
        return f"there is no stage in {runs_dir}, and no such file"
    return f"no stage in {runs_dir} begins so; there are {_names(known)}"


def _names(folders: list[Path]) -> str:
    """Return the first of many stages, as they are typed."""
    shown = [f"{path.parent.name}/{path.name}" for path in folders[:MAX_CANDIDATES]]
    more = len(folders) - MAX_CANDIDATES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


# a stage's folder, or whatever else a command reads weights or records from
StagePath = Annotated[PathText, AfterValidator(resolve_stage)]
