"""src/prepare.py: what it costs first, then the conversion with a bar, then what stands there."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from unmask.config.arguments import Prepare
from unmask.config.checks import ConfigError
from unmask.data.containers.change import Change
from unmask.data.containers.contents import INDEX, indexed_kind, name_order, read_index
from unmask.data.containers.convert import BAD, Conversion, read_bad
from unmask.data.containers.source import CONTAINERS, catalogue_of
from unmask.data.containers.tasks import (
    SHARD_MB,
    Record,
    Task,
    plan_id,
    planned,
    record_path,
    stored_sizes,
    unread_among,
)
from unmask.data.containers.writers import MAKING
from unmask.data.images.unreadable import shown
from unmask.data.listing.catalogue import PREPARED, PREPARING, Catalogue
from unmask.data.listing.listing import arranged, catalogued
from unmask.data.listing.names import Names
from unmask.data.listing.stores import Taken
from unmask.distributed.processes import available_cores
from unmask.storage.atomic import write_json

MEBIBYTE, GIB = 2**20, 2**30
SPARE = 1.02  # headers, indexes
QUALITY = 90


def prepare(given: Prepare, console: Console) -> None:
    """Raises ConfigError for arguments that cannot be, ValueError for images that cannot, OSError for a full disk."""
    target = Path(given.to).expanduser()
    kind = given.source or found_kind(given.given)
    _refuse(given, target, kind)
    found = _catalogue(kind, given)
    if kind == "folder" and (
        lists := sorted(Path(given.given).expanduser().glob("train.csv"))
    ):
        console.print(
            f"{lists[0]}: labels of a list are not carried over, only class folders and"
            " shards' own; sort the images into class folders first, or train on"
            f" data=listed data.root={given.given} as it is",
            soft_wrap=True,
        )
    change = _change(given)
    sizes = stored_sizes(found, change)
    tasks = planned(
        found,
        sizes,
        given.format,
        (given.shard_mb or SHARD_MB[given.format]) * MEBIBYTE,
    )
    plan = plan_id(found, change, given.format, tasks)
    with _alone(target):
        facts: dict[str, Any] = {
            "plan": plan,
            "format": given.format,
            "images": len(found.names),
        }
        facts |= {
            "short_side": change.short_side,
            "quality": change.quality,
            "channels": change.channels,
        }
        _begin(target, facts, tasks, given.format)
        _say_price(given, found, sizes, tasks, target, console)
        conversion = Conversion(found, given.format, target, change, tasks)
        contents = conversion.finish(
            _run(conversion, given.workers or available_cores(), console), facts
        )
    told = json.loads((target / PREPARED).read_bytes())
    if conversion.damaged:
        console.print(
            "damaged or missing, and made again:"
            f" {', '.join(sorted(conversion.damaged))}",
            soft_wrap=True,
        )
    console.print(
        f"{target}: {len(contents.names)} images in {len(tasks)} shards, each read back"
        " and compared"
    )
    unread = len(unread_among(read_bad(target)))
    if told["bad_images"]:
        became = (
            "; empty pixels stand in their place"
            if given.format == "raw"
            else " and were copied as they are"
        )
        decoded = told["bad_images"] - unread
        if decoded:
            console.print(
                f"{decoded} could not be decoded{became}: {target / BAD}",
                soft_wrap=True,
            )
        if unread:
            console.print(
                f"{unread} could not be read, and nothing stands in their place:"
                f" {target / BAD}; once they can be read the same command fills it",
                soft_wrap=True,
            )
    _say_identity(found, given, change.copies and not unread, console)


def found_kind(place: str) -> str:
    """A folder of images unless shards lie in it; of several kinds of shards the user must say which."""
    folder = Path(place).expanduser()
    if "://" in place or not folder.is_dir():
        raise ConfigError(
            f"from={place}: no such folder; of object storage say what it holds:"
            " source=webdataset"
        )
    if known := indexed_kind(folder / INDEX):
        return known
    # not below that: a folder of images has a million files
    lying = folder / "train" if (folder / "train").is_dir() else folder
    suffixes = {each.suffix: kind for kind, each in CONTAINERS.items() if each.scan}
    kinds = [
        kind
        for suffix, kind in suffixes.items()
        if any(lying.glob(f"*{suffix}")) or any(lying.glob(f"*/*{suffix}"))
    ]
    if len(kinds) > 1:
        raise ConfigError(
            f"from={place}: it holds {' and '.join(kinds)}; say which:"
            f" source={kinds[0]}"
        )
    return kinds[0] if kinds else "folder"


def _refuse(given: Prepare, target: Path, kind: str) -> None:
    source = Path(given.given).expanduser()
    if target.resolve().is_relative_to(
        source.resolve()
    ) or source.resolve().is_relative_to(target.resolve()):
        raise ConfigError(
            f"to={given.to}: it must not lie in from={given.given}, nor that in it"
        )
    if (
        kind == "raw"
        and given.format != "raw"
        and not (given.short_side or given.quality)
    ):
        raise ConfigError(
            f"format = {given.format}: raw pixels have to be compressed for it; add"
            " quality=90"
        )


def _change(given: Prepare) -> Change:
    if given.format == "raw":
        return Change(given.short_side, None, given.channels or 3)
    return Change(
        given.short_side, given.quality or (QUALITY if given.short_side else None)
    )


def _catalogue(kind: str, given: Prepare) -> Catalogue:
    try:
        found = (
            catalogued(Path(given.given).expanduser())
            if kind == "folder"
            else catalogue_of(kind, given.given)
        )
    except ValueError as error:
        raise ConfigError(str(error).replace("data.root=", "from=")) from None
    if not len(found.names):
        raise ConfigError(f"from={given.given}: there are no images in it")
    if (
        given.format in ("parquet", "litdata")
        and (odd := found.names.not_text()) is not None
    ):
        raise ConfigError(
            f"format = {given.format}: it stores names as text, and {shown(odd)} is"
            " none (UTF-8); rename it, or choose webdataset, raw or folder"
        )
    if given.format == "folder" and found.labels is not None:
        found = in_class_folders(found)
    return found


def in_class_folders(found: Catalogue) -> Catalogue:
    """Labels that stood beside the images become folders, as people without shards expect them."""
    assert found.labels is not None

    def moved(name: str, label: int) -> str:
        folder, _, base = name.rpartition("/")
        own = found.classes[label].replace("/", "_") if label >= 0 else ""
        return "/".join(part for part in (folder, own, base) if part)

    names = Names(
        moved(name, label)
        for name, label in zip(found.names, found.labels.tolist(), strict=True)
    )
    order = name_order(names)
    return replace(
        found,
        names=names.take(order),
        sizes=found.sizes[order],
        store=Taken(found.store, order),
        labels=None,
        digest=lambda i: found.digest(int(order[i])),
        classes=(),
    )


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    lock = FileLock(target / ".preparing.lock", timeout=0)
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"to={target}: another src/prepare.py writes there") from None
    except PermissionError as error:
        raise ConfigError(
            f"to={target}: {error.filename} may not be written; choose another folder,"
            " or have its owner unlock it"
        ) from None
    try:
        yield
    finally:
        lock.release()
    (target / ".preparing.lock").unlink(missing_ok=True)


def _begin(target: Path, facts: dict[str, Any], tasks: list[Task], kind: str) -> None:
    """Take over what an earlier run left; refuse a folder that holds something else. facts: of what is to be made."""
    kept, whole = target / PREPARING / "plan.json", target / PREPARED
    standing = next((path for path in (kept, whole) if path.exists()), None)
    if standing is None:
        others = [
            path.name for path in target.iterdir() if path.name != ".preparing.lock"
        ]
        if others:
            raise ConfigError(
                f"to={target}: it holds {others[0]} already; choose an empty folder"
            )
    elif (stands := json.loads(standing.read_bytes()))["plan"] != facts[
        "plan"
    ] and not _is_empty(target):
        raise ConfigError(
            f"to={target}: what stands there was made from other images or in another"
            f" way ({_difference(stands, facts)}); choose another folder, or remove it"
        )
    for leftover in target.rglob(".*.tmp"):
        leftover.unlink()
    for leftover in list(target.rglob(f"{MAKING}*")):
        shutil.rmtree(leftover)
    (target / PREPARING).mkdir(exist_ok=True)
    if standing is whole:
        _restore(target, tasks, kind, json.loads(whole.read_bytes())["sha256"])
    write_json(kept, facts)


def _difference(stands: dict[str, Any], facts: dict[str, Any]) -> str:
    """What was made, and what is to be made, in words; earlier versions kept fewer facts."""
    differ = [
        key
        for key, new in facts.items()
        if key != "plan" and key in stands and stands[key] != new
    ]
    if differ:
        return "; ".join(
            f"{key} was {json.dumps(stands[key])}, is {json.dumps(facts[key])}"
            for key in differ
        )
    if facts.keys() <= stands.keys():
        return "as many, but their names, sizes, classes or shards differ"
    return "how it was made is not on file"


def _is_empty(target: Path) -> bool:
    """Whether a conversion was begun there and made nothing yet."""
    return not [
        p for p in target.iterdir() if p.name not in (PREPARING, ".preparing.lock")
    ] and not [p for p in (target / PREPARING).iterdir() if p.name != "plan.json"]


def _restore(target: Path, tasks: list[Task], kind: str, sums: dict[str, str]) -> None:
    """Records of a whole target, so that its shards are verified, and damaged ones made again."""
    contents = read_index(target / INDEX, kind)
    if contents is None or contents.digests is None:
        return
    known = read_bad(target)
    for number, task in enumerate(tasks):
        own = np.flatnonzero(contents.shards == number)
        rows = [
            [
                contents.names[place],
                int(contents.labels[place]),
                int(contents.sizes[place]),
                int(contents.offsets[place]),
                None if contents.shapes is None else contents.shapes[place].tolist(),
            ]
            for place in own.tolist()
        ]
        digests = [contents.digests[place].tobytes().hex() for place in own.tolist()]
        bad = [[row[0], known[row[0]]] for row in rows if row[0] in known]
        Record(contents.files[number].size, sums[task.name], rows, digests, bad).write(
            record_path(target, task)
        )


def _say_price(
    given: Prepare,
    found: Catalogue,
    sizes: np.ndarray,
    tasks: list[Task],
    target: Path,
    console: Console,
) -> None:
    """Raises OSError where the disk is too small for what is still to be written."""
    begun = [task for task in tasks if record_path(target, task).exists()]
    done = sum(int(sizes[task.places].sum()) for task in begun)
    needed = int(SPARE * (int(sizes.sum()) - done))
    free = shutil.disk_usage(target).free
    about = "" if sizes is found.sizes else "about "
    console.print(
        f"{len(found.names)} images, {int(found.sizes.sum()) / GIB:.2f} GiB, into"
        f" {len(tasks)} shards: {about}{needed / GIB:.2f} GiB still to be written,"
        f" {free / GIB:.1f} GiB free"
        + (f"; {len(begun)} shards stand already" if begun else ""),
        soft_wrap=True,
    )
    if needed > free:
        raise OSError(
            f"to={target}: {about}{needed / GIB:.2f} GiB are needed and"
            f" {free / GIB:.2f} GiB are free; make room, or choose another disk, a"
            " smaller short_side or a lower quality"
        )


def _run(conversion: Conversion, workers: int, console: Console) -> list[Record]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(conversion.kind, total=len(conversion.found.names))
        return conversion.run(workers, lambda images: bar.advance(task, images))


def _say_identity(
    found: Catalogue, given: Prepare, copied: bool, console: Console
) -> None:
    """Whether runs on the new shards are those on the old: their fingerprints hold the same identity.

    copied: all of it, as it was. Raises OSError where it cannot have been.
    """
    target = Path(given.to).expanduser()
    try:
        made = (
            catalogued(target)
            if given.format == "folder"
            else catalogue_of(given.format, str(target))
        )
        ours, theirs = (
            arranged(each, PurePath(), 0.1).identity for each in (made, found)
        )
    except ValueError as error:  # a train/ alone without enough images, say
        console.print(f"not yet a data set to train on: {error}", soft_wrap=True)
        return
    if copied and ours != theirs and given.format != "folder":
        raise OSError(
            f"{target}: identity {ours}, the source's is {theirs}; what was written is"
            " not what was read"
        )
    same = (
        "the source's: runs share their fingerprints"
        if ours == theirs
        else f"another than the source's {theirs}"
    )
    console.print(f"identity {ours}, {same}")
