"""A source of images in shards, listed as a folder of the same images is."""

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64
from rich.console import Console
from rich.progress import Progress

from unmask.data.containers.contents import Contents, keep_index, kept_index, one_scan
from unmask.data.containers.naming import (
    as_in_folders,
    below_split,
    labels_are_folders,
    splits_in,
)
from unmask.data.containers.parquet import scan_parquet
from unmask.data.containers.roots import LocalRoot, Root, Shard, numbered_gaps, root_of
from unmask.data.containers.shards import RawPixels, Shards
from unmask.data.containers.streamed import Streamed, fetched_index
from unmask.data.containers.tars import Found, scan_tar
from unmask.data.listing.catalogue import (
    SUFFIX_OF,
    Catalogue,
    refuse_unfinished,
    within,
)
from unmask.data.listing.listing import Listing, arranged
from unmask.data.listing.names import Names
from unmask.distributed.processes import available_cores

Kind = Literal["webdataset", "parquet", "litdata", "raw"]


class Container(NamedTuple):
    suffix: str
    what: str
    # None: src/prepare.py alone makes it, and its index with it
    scan: Callable[..., Found] | None


CONTAINERS: dict[str, Container] = {
    "webdataset": Container(SUFFIX_OF["webdataset"], "tar shards", scan_tar),
    "parquet": Container(SUFFIX_OF["parquet"], "Parquet files", scan_parquet),
    "litdata": Container(SUFFIX_OF["litdata"], "LitData chunks", None),
    "raw": Container(SUFFIX_OF["raw"], "files of raw pixels", None),
}


def list_container(kind: str, place: str, holdout: float) -> Listing:
    """Raises ValueError in a line where shards are missing, damaged or of another kind."""
    found = catalogue_of(kind, place)
    return arranged(found, PurePath(place), holdout)


def catalogue_of(kind: str, place: str) -> Catalogue:
    if kind == "litdata" and "://" in place:
        contents = fetched_index(place)
        return _catalogue(contents, Streamed(place, contents))
    root = root_of(place)
    if kind == "raw" and not isinstance(root, LocalRoot):
        raise ValueError(
            f"data.root={place}: raw pixels are mapped into memory, so they must lie in"
            " a local folder"
        )
    contents = contents_of(kind, root)
    if kind == "raw":
        assert isinstance(root, LocalRoot)
        return replace(_catalogue(contents, RawPixels(root, contents)), marked=True)
    if int(contents.offsets.min(initial=0)) < 0:
        warnings.warn(
            f"{place}: these Parquet files are compressed, so that each image costs a"
            " whole row group; made once, shards that are not are read as fast as"
            f" files: python src/prepare.py from={place} to=... format=parquet",
            stacklevel=1,
        )
    return _catalogue(contents, Shards(root, contents))


def _catalogue(contents: Contents, store: Shards | Streamed | RawPixels) -> Catalogue:
    digests = contents.digests

    def digest(i: int) -> str:
        if digests is not None:
            return digests[i].tobytes().hex()
        content = store.read(i)
        return hashlib.sha256(
            content if isinstance(content, bytes) else content.tobytes()
        ).hexdigest()

    beside = bool((contents.labels >= 0).any()) and not labels_are_folders(contents)
    classes = contents.classes or tuple(
        map(str, range(int(contents.labels.max(initial=-1)) + 1))
    )
    return Catalogue(
        contents.names,
        contents.sizes,
        store,
        splits_in(contents.names),
        digest,
        contents.labels if beside else None,
        classes if beside else (),
    )


def contents_of(kind: str, root: Root) -> Contents:
    """By the index that was kept, if the shards are still those; else by a scan."""
    container = CONTAINERS[kind]
    if isinstance(root, LocalRoot):
        refuse_unfinished(root.root)
    shards = root.shards(container.suffix)
    if not shards:
        packed = _packed(kind, root)
        others = [
            other
            for other, each in CONTAINERS.items()
            if other != kind and root.shards(each.suffix)
        ]
        more = (
            f", but {CONTAINERS[others[0]].what}: set source={others[0]}"
            if others
            else "; for folders of images leave source out"
        )
        more += (
            f"; {packed[0].name} is compressed as a whole: unpack it" if packed else ""
        )
        raise ValueError(
            f"data.root={root} has no {container.what} (*{container.suffix}){more}"
        )
    if (kept := _kept(kind, root, shards)) is not None:
        return kept
    if container.scan is None:
        raise ValueError(
            f"data.root={root} has {container.what} but no whole unmask.index; copy it"
            f" too, or make both: python src/prepare.py from=... to={root}"
            f" format={kind}"
        )
    if missing := list(numbered_gaps(shards)):
        raise ValueError(
            f"{root}/{missing[0]} is missing ({len(missing)} of the numbered shards"
            " are); copy it too"
        )
    # of the processes of a run, or of a sweep, the others wait for what it finds
    with one_scan(root):
        return _kept(kind, root, shards) or _found(container.scan, kind, root, shards)


def _kept(kind: str, root: Root, shards: list[Shard]) -> Contents | None:
    for kept in kept_index(root, kind):
        if list(kept.files) == shards:
            return kept
        # copied perhaps, then at other times; but never with other sizes
        if kept.prepared:
            _refuse_others(kept.files, shards, root)
            return kept
    return None


def _found(
    scan: Callable[..., Found], kind: str, root: Root, shards: list[Shard]
) -> Contents:
    contents = as_in_folders(scanned(scan, root, shards))
    _check_counts(contents, root)
    keep_index(contents, root, kind)
    return contents


def _packed(kind: str, root: Root) -> list[Shard]:
    return (
        [*root.shards(".tar.gz"), *root.shards(".tgz")] if kind == "webdataset" else []
    )


def _refuse_others(wanted: tuple[Shard, ...], shards: list[Shard], root: Root) -> None:
    """Shards that src/prepare.py wrote are never others, only missing or cut."""
    sizes = {shard.name: shard.size for shard in shards}
    if added := sorted(sizes.keys() - {shard.name for shard in wanted}):
        raise ValueError(
            f"{root}/{added[0]} lies among shards that src/prepare.py wrote, and is"
            " none: move it away"
        )
    for shard in wanted:
        if shard.name not in sizes:
            raise ValueError(
                f"{root}/{shard.name} is missing: copy it again, or run the same"
                " src/prepare.py again"
            )
        if sizes[shard.name] != shard.size:
            raise ValueError(
                f"{root}/{shard.name} has {sizes[shard.name]} bytes, but was written"
                f" with {shard.size}: copy it again, or run the same src/prepare.py"
                " again"
            )


def scanned(scan: Callable[..., Found], root: Root, shards: list[Shard]) -> Contents:
    """Threads: what takes long of a Parquet file is done outside of Python."""

    def one(shard: Shard) -> Columns:
        with root.open(shard.name) as file:
            return columns_of(scan(file, f"{root}/{shard.name}"), shard.name)

    bar = Progress(
        console=Console(stderr=True), transient=True, disable=len(shards) < 9
    )
    with ThreadPoolExecutor(available_cores()) as pool, bar:
        found = list(
            bar.track(pool.map(one, shards), len(shards), description=f"listing {root}")
        )
    return gathered(found, shards)


class Columns(NamedTuple):
    """Of one shard, in little memory."""

    names: Names
    numbers: Int64[np.ndarray, "N 3"]  # label, size, offset
    classes: tuple[str, ...]


def columns_of(found: Found, shard: str) -> Columns:
    numbers = np.array([row[1:] for row in found.rows], dtype=np.int64).reshape(-1, 3)
    return Columns(
        Names(below_split(row.name, shard) for row in found.rows),
        numbers,
        found.classes,
    )


def gathered(found: list[Columns], shards: list[Shard]) -> Contents:
    labels, sizes, offsets = np.concatenate([each.numbers for each in found]).T
    counts = [len(each.names) for each in found]
    names = Names(itertools.chain.from_iterable(each.names for each in found))
    classes = next((each.classes for each in found if each.classes), ())
    owners = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    return Contents(
        names, labels.astype(np.int32), sizes, owners, offsets, tuple(shards), classes
    ).in_order()


def _check_counts(contents: Contents, root: Root) -> None:
    """Where the Hub's _info.json lies beside the shards, it says how many images each split has."""
    if not isinstance(root, LocalRoot) or not (root.root / "_info.json").is_file():
        return
    try:
        splits = json.loads((root.root / "_info.json").read_bytes())["splits"]
        told = {name: int(about["num_samples"]) for name, about in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    ours = {split_name(name): 0 for name in splits_in(contents.names)}
    for name in splits_in(contents.names):
        part = within(contents.names, name)
        ours[split_name(name)] += part.stop - part.start
    for name, count in told.items():
        if (have := ours.get(split_name(name))) is not None and have != count:
            raise ValueError(
                f"{root}/_info.json says {count} images in {name}, the shards hold"
                f" {have}: copy them all"
            )


def split_name(name: str) -> str:
    return "train" if name == "train" else "val"
