"""Where each image lies in its shards: found by one scan, kept in a file beside them, made anew when they change."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from jaxtyping import Int, Int32, Int64, UInt8

from unmask.data.containers.roots import LocalRoot, Root, Shard
from unmask.data.listing.names import Names
from unmask.storage.atomic import replacing

# a Parquet file; the suffix keeps it apart from shards
INDEX, VERSION = "unmask.index", 1

SHAPE = ("height", "width", "channels")
NUMBERS = ("label", "size", "shard", "offset", *SHAPE)


@dataclass(frozen=True)
class Contents:
    """In the order of names, which are relative to the root as in a folder of the same images: train/cat/1.jpg.

    labels are -1 where none stands beside the image. An offset below zero is a row of a Parquet file (`parquet.py`).
    digests: sha256, where whoever wrote the shards knew them. prepared: by src/prepare.py, which wrote nothing else.
    """

    names: Names
    labels: Int32[np.ndarray, "N"]
    sizes: Int64[np.ndarray, "N"]
    shards: Int32[np.ndarray, "N"]
    offsets: Int64[np.ndarray, "N"]
    files: tuple[Shard, ...]
    classes: tuple[str, ...] = ()
    digests: UInt8[np.ndarray, "N 32"] | None = None
    # of raw pixels: height, width, channels
    shapes: Int32[np.ndarray, "N 3"] | None = None
    prepared: bool = False

    def taken(self, places: Int[np.ndarray, "M"]) -> "Contents":
        return replace(
            self,
            names=self.names.take(places),
            labels=self.labels[places],
            sizes=self.sizes[places],
            shards=self.shards[places],
            offsets=self.offsets[places],
            digests=None if self.digests is None else self.digests[places],
            shapes=None if self.shapes is None else self.shapes[places],
        )

    def in_order(self) -> "Contents":
        """By name. Raises ValueError where two images have one name."""
        found = self.taken(name_order(self.names))
        column = as_arrow(found.names)
        same = np.flatnonzero(
            pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
        )
        if len(same):
            k = int(same[0])
            one, other = (self.files[found.shards[place]].name for place in (k, k + 1))
            raise ValueError(
                f"{found.names[k]} stands in {one} and again in {other}; names must"
                " differ"
            )
        return found


def as_arrow(names: Names) -> pa.Array:
    """The same memory."""
    buffers = [
        None,
        pa.py_buffer(np.ascontiguousarray(names.ends)),
        pa.py_buffer(names.text),
    ]
    return pa.Array.from_buffers(pa.large_binary(), len(names), buffers)


def from_arrow(array: pa.Array) -> Names:
    _, ends, text = array.buffers()
    numbers = np.frombuffer(ends, dtype=np.int64)[
        array.offset : array.offset + len(array) + 1
    ]
    return Names.packed(np.frombuffer(text or b"", dtype=np.uint8), numbers)


def name_order(names: Names) -> Int64[np.ndarray, "N"]:
    """UTF-8 sorts as its characters do."""
    return pc.array_sort_indices(as_arrow(names)).to_numpy().astype(np.int64)


def write_index(contents: Contents, path: Path, kind: str) -> None:
    columns: dict[str, Any] = {
        "name": as_arrow(contents.names),
        "label": contents.labels,
        "size": contents.sizes,
        "shard": contents.shards,
        "offset": contents.offsets,
    }
    if contents.digests is not None:
        columns["sha256"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32),
            len(contents.names),
            [None, pa.py_buffer(np.ascontiguousarray(contents.digests))],
        )
    if contents.shapes is not None:
        columns |= {name: contents.shapes[:, k] for k, name in enumerate(SHAPE)}
    about = {
        "version": VERSION,
        "kind": kind,
        "files": contents.files,
        "classes": contents.classes,
        "prepared": contents.prepared,
    }
    table = pa.table(columns).replace_schema_metadata({"unmask": json.dumps(about)})
    with replacing(path) as file:
        pq.write_table(
            table, file, compression="zstd", row_group_size=max(1, len(table))
        )


def read_index(source: Any, kind: str) -> Contents | None:
    """None where it is of another version or kind, or damaged."""
    try:
        file = pq.ParquetFile(source, pre_buffer=False)
        about = json.loads((file.schema_arrow.metadata or {})[b"unmask"])
        if (about["version"], about["kind"]) != (VERSION, kind):
            return None
        # column by column, copied out of Arrow's memory, which keeps what was freed
        numbers = {
            name: _column(file, name).to_numpy().copy()
            for name in NUMBERS
            if name in file.schema_arrow.names
        }
        names = from_arrow(_column(file, "name"))
        names = Names.packed(names.text.copy(), names.ends.copy())
        digests = (
            _digests(_column(file, "sha256"))
            if "sha256" in file.schema_arrow.names
            else None
        )
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    finally:
        pa.default_memory_pool().release_unused()
    shapes = (
        np.stack([numbers[name] for name in SHAPE], axis=1)
        if SHAPE[0] in numbers
        else None
    )
    return Contents(
        names,
        numbers["label"],
        numbers["size"],
        numbers["shard"],
        numbers["offset"],
        tuple(Shard(*each) for each in about["files"]),
        tuple(about["classes"]),
        digests,
        shapes,
        about["prepared"],
    )


def indexed_kind(path: Path) -> str | None:
    """What an index is of; None where there is none."""
    try:
        return json.loads((pq.read_schema(path).metadata or {})[b"unmask"])["kind"]
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None


def _column(file: pq.ParquetFile, name: str) -> pa.Array:
    column = file.read(columns=[name], use_threads=False)[name].combine_chunks()
    return (
        pa.concat_arrays(column.chunks)
        if isinstance(column, pa.ChunkedArray)
        else column
    )


def _digests(column: pa.Array) -> UInt8[np.ndarray, "N 32"]:
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, 32)
    return flat[column.offset : column.offset + len(column)].copy()


def index_places(root: Root) -> Iterable[Path]:
    """Beside the shards, else in the user's cache: shards may lie where nobody can write, or far away."""
    if isinstance(root, LocalRoot):
        yield root.root / INDEX
    place = str(root.root.resolve()) if isinstance(root, LocalRoot) else str(root)
    yield cache_folder(place).with_suffix(".index")


def cache_folder(place: str) -> Path:
    """The user's own, of what lies at a place."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unmask"
    return cache / hashlib.sha256(place.encode()).hexdigest()[:16]


@contextlib.contextmanager
def one_scan(root: Root) -> Iterator[None]:
    """Within, this process alone scans those shards, of those that share a cache."""
    lock = FileLock(cache_folder(str(root)).with_suffix(".lock"))
    with contextlib.suppress(OSError):  # there is no cache: each scans for itself
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def keep_index(contents: Contents, root: Root, kind: str) -> None:
    """Where it can be kept; another scan is the price where it cannot."""
    for path in index_places(root):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_index(contents, path, kind)
            return
        except OSError:
            continue


def kept_index(root: Root, kind: str) -> Iterable[Contents]:
    for path in index_places(root):
        if path.exists() and (contents := read_index(path, kind)) is not None:
            yield contents
