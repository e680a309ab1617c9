"""Index file: the contents of shards, so that they are scanned only once.

It lies beside the shards or in the user's cache, and is made again when they change.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from jaxtyping import UInt8

from unmask.data.containers.contents import BYTES_CODE, Contents
from unmask.data.containers.roots import LocalRoot, Root, Shard
from unmask.storage.atomic import atomic_write

# A Parquet file; the suffix keeps it apart from shards.
INDEX_FILE = "unmask.index"
INDEX_VERSION = 2
# Scans of version 1 read fewer labels; what src/prepare.py wrote then is still right.
PREPARED_VERSIONS = (1, 2)

# Names of columns in the file.
SHAPE_COLUMNS = ("height", "width", "channels")
TYPE_COLUMN = "dtype"
NUMBER_COLUMNS = ("label", "size", "shard", "offset", *SHAPE_COLUMNS, TYPE_COLUMN)


def write_index(contents: Contents, path: Path, kind: str) -> None:
    """Write the index of shards of a kind: webdataset, parquet, litdata or raw."""
    columns: dict[str, Any] = {
        "name": contents.names,
        "label": contents.labels,
        "size": contents.sizes,
        "shard": contents.shard_ids,
        "offset": contents.offsets,
    }
    if contents.digests is not None:
        columns["sha256"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32),
            len(contents.names),
            [None, pa.py_buffer(np.ascontiguousarray(contents.digests))],
        )
    if contents.shapes is not None:
        for k, name in enumerate(SHAPE_COLUMNS):
            columns[name] = contents.shapes[:, k]
    # an index of bytes is what it was before there were other pixels
    if contents.dtypes is not None and (contents.dtypes != BYTES_CODE).any():
        columns[TYPE_COLUMN] = contents.dtypes
    metadata = {
        "version": INDEX_VERSION,
        "kind": kind,
        "files": contents.shards,
        "classes": contents.classes,
        "prepared": contents.is_prepared,
        "notes": contents.notes,
    }
    table = pa.table(columns).replace_schema_metadata({"unmask": json.dumps(metadata)})
    with atomic_write(path) as file:
        # one row group: the file is always read as a whole
        pq.write_table(
            table, file, compression="zstd", row_group_size=max(1, len(table))
        )


def read_index(source: Any, kind: str) -> Contents | None:
    """Read an index; None where it is damaged, or of another version or kind."""
    try:
        file = pq.ParquetFile(source, pre_buffer=False)
        metadata = _read_metadata(file.schema_arrow)
        known = PREPARED_VERSIONS if metadata["prepared"] else (INDEX_VERSION,)
        if metadata["version"] not in known or metadata["kind"] != kind:
            return None
        columns = file.schema_arrow.names
        # Column by column, and copied: Arrow keeps memory that was freed, so a
        # process would hold the whole table for its lifetime.
        numbers = {
            name: _read_column(file, name).to_numpy().copy()
            for name in NUMBER_COLUMNS
            if name in columns
        }
        names = _read_column(file, "name")
        digests = None
        if "sha256" in columns:
            digests = _copy_digests(_read_column(file, "sha256"))
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    finally:
        pa.default_memory_pool().release_unused()

    shapes = None
    if SHAPE_COLUMNS[0] in numbers:
        shapes = np.stack([numbers[name] for name in SHAPE_COLUMNS], axis=1)
    return Contents(
        names,
        numbers["label"],
        numbers["size"],
        numbers["shard"],
        numbers["offset"],
        tuple(Shard(*each) for each in metadata["files"]),
        tuple(metadata["classes"]),
        digests,
        shapes,
        metadata["prepared"],
        tuple(metadata.get("notes", ())),
        numbers.get(TYPE_COLUMN),
    )


def read_index_kind(path: Path) -> str | None:
    """Return the kind of shards that an index is of; None where there is no index."""
    try:
        return _read_metadata(pq.read_schema(path))["kind"]
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None


def _read_metadata(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {})[b"unmask"])


def _read_column(file: pq.ParquetFile, name: str) -> pa.Array:
    column = file.read(columns=[name], use_threads=False)[name].combine_chunks()
    # which of both comes back depends on the version of pyarrow
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks)
    return column


def _copy_digests(column: pa.Array) -> UInt8[np.ndarray, "N 32"]:
    digests = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, 32)
    return digests[column.offset : column.offset + len(column)].copy()


def index_paths(root: Root) -> Iterable[Path]:
    """Yield where an index may lie: beside the shards, then in the user's cache.

    Shards may be in a folder that the user cannot write to, or far away.
    """
    if isinstance(root, LocalRoot):
        yield root.folder / INDEX_FILE
        location = str(root.folder.resolve())
    else:
        location = str(root)
    yield cache_folder(location).with_suffix(".index")


def cache_folder(location: str) -> Path:
    """Return the folder of the user's cache for a path or URL."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unmask"
    return cache / hashlib.sha256(location.encode()).hexdigest()[:16]


@contextlib.contextmanager
def scan_lock(root: Root) -> Iterator[None]:
    """Let one process at a time scan these shards, of all that share a cache."""
    lock = FileLock(cache_folder(str(root)).with_suffix(".lock"))
    # without a cache that can be written each process scans for itself
    with contextlib.suppress(OSError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def save_index(contents: Contents, root: Root, kind: str) -> None:
    """Write the index to the first path that can be written.

    Where there is none, shards are scanned again the next time.
    """
    for path in index_paths(root):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_index(contents, path, kind)
            return
        except OSError:
            continue


def saved_indexes(root: Root, kind: str) -> Iterable[Contents]:
    """Yield the contents of each index of these shards that can be read."""
    for path in index_paths(root):
        contents = read_index(path, kind) if path.exists() else None
        if contents is not None:
            yield contents
