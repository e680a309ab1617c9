"""Parquet shards as on the Hub: images as struct<bytes, path> or as bytes, and labels.

Where pages are plain and uncompressed, the file contains an image's bytes unchanged
and they are read by offset. Otherwise a whole row group is decoded for one image. Rows
may hold the path of a file instead of its bytes, as the library datasets writes them.
"""

import errno
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from unmask.config.datasets import ClassKey
from unmask.data.containers.naming import suffix_of
from unmask.data.containers.scan_tar import ImageEntry, ScannedShard, label_value
from unmask.data.listing.conventions import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    find_column,
    has_image_suffix,
)
from unmask.data.listing.names import read_file
from unmask.data.listing.scan import NOT_A_FILE, file_size

# Encodings that leave values as they are; the last two are of levels, not of values.
PLAIN_ENCODINGS = frozenset(["PLAIN", "RLE", "BIT_PACKED"])

# Shards are scanned and read in many threads already.
READ_OPTIONS: dict[str, Any] = {"use_threads": False}

# Decoded row groups of compressed files that a process keeps.
MAX_GROUPS = 8

# Bits for the row in a location that encodes (row group, row), and the bit of rows that
# hold a path.
ROW_BITS = 32
PATH_BIT = 1 << 62


def encode_row(group: int, row: int, has_path: bool = False) -> int:
    """Encode a row without an offset as a number below zero, in place of the offset."""
    return -1 - (group << ROW_BITS | row | PATH_BIT * has_path)


def decode_row(offset: int) -> tuple[int, int]:
    """Return the (row group, row) of a number below zero."""
    return divmod((-1 - offset) & ~PATH_BIT, 1 << ROW_BITS)


def holds_path(offsets: Int64[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Say which locations are of rows that hold the path of a file."""
    return (offsets < 0) & (((-1 - offsets) & PATH_BIT) > 0)


class Columns(NamedTuple):
    """Name the columns of images and of labels, and the classes of numbers.

    has_paths, is_struct: the column of images is struct<bytes, path>, or struct<bytes>.
    unread: all other columns, with their types.
    """

    image: str
    label: str | None
    classes: tuple[str, ...]
    is_struct: bool
    has_paths: bool
    unread: tuple[str, ...]

    @property
    def content(self) -> str:
        """Return the path of the column that holds the images' bytes."""
        return f"{self.image}.bytes" if self.is_struct else self.image


def scan_parquet(file: Any, shard: str) -> ScannedShard:
    """List the images of a shard, which is read as a whole for their sizes.

    Raises ValueError where it is damaged, holds no images, or holds paths of files that
    are not there.
    """
    try:
        reader = pq.ParquetFile(file, pre_buffer=False)
        columns = find_columns(reader.schema_arrow, shard)
        entries: list[ImageEntry] = []
        for group in range(reader.num_row_groups):
            entries += _scan_group(reader, file, group, columns, shard)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{shard} is not a complete Parquet file ({str(error).strip()}); copy or"
            " make it again"
        ) from None
    return ScannedShard(entries, columns.classes, False, columns.unread)


def find_columns(schema: pa.Schema, shard: str) -> Columns:
    """Find the columns by the Hub's metadata, or by the usual names.

    Raises ValueError where no column holds images.
    """
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    features = {k: v for k, v in features.items() if isinstance(v, dict)}
    images = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    class_names = {
        name: kind["names"] for name, kind in features.items() if "names" in kind
    }
    with_bytes = [name for name in schema.names if _holds_bytes(schema, name)]
    image = next((name for name in images if name in with_bytes), None)
    image = image or find_column(with_bytes, IMAGE_COLUMNS)
    # whatever it is called, if there is no other
    image = with_bytes[0] if image is None and len(with_bytes) == 1 else image
    if image is None:
        raise ValueError(
            f"{shard} has the columns {', '.join(schema.names)}; expected image:"
            " struct<bytes, path>"
        )
    kind = schema.field(image).type
    is_struct = pa.types.is_struct(kind)
    label = next((name for name in class_names if name in schema.names), None)
    readable = [name for name in schema.names if _holds_labels(schema, name)]
    label = label or find_column(readable, LABEL_COLUMNS)
    others = [name for name in schema.names if name not in (image, label)]
    return Columns(
        image,
        label,
        tuple(class_names.get(label, ())) if label else (),
        is_struct,
        is_struct and kind.get_field_index("path") >= 0,
        tuple(f"the column {name}: {schema.field(name).type}" for name in others),
    )


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_labels(schema: pa.Schema, name: str) -> bool:
    """Say whether a column holds numbers or words, or structs of them."""
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_word = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return is_word or is_number or pa.types.is_boolean(kind) or pa.types.is_struct(kind)


def _scan_group(
    reader: pq.ParquetFile, file: Any, group: int, columns: Columns, shard: str
) -> list[ImageEntry]:
    wanted = [columns.image, *([columns.label] if columns.label else [])]
    table = reader.read_row_group(group, columns=wanted, **READ_OPTIONS)
    images = table[columns.image].combine_chunks()
    contents = (images.field("bytes") if columns.is_struct else images).to_pylist()
    paths: list[str | None] = [None] * len(contents)
    if columns.has_paths:
        paths = images.field("path").to_pylist()
    labels: list[ClassKey | None] = [None] * len(contents)
    if columns.label:
        labels = [label_value(each) for each in table[columns.label].to_pylist()]
    offsets = _find_offsets(reader, file, group, columns.content, contents)
    sizes = [len(content or b"") for content in contents]
    for row, (content, path) in enumerate(zip(contents, paths, strict=True)):
        if content is None and path:
            sizes[row] = file_size(str(local_path(path, shard)))
            offsets[row] = encode_row(group, row, has_path=True)
    missing = [row for row, size in enumerate(sizes) if size == NOT_A_FILE]
    if missing and len(missing) == len(sizes):
        raise ValueError(
            f"{shard} holds paths in place of images, and the files are not there:"
            f" {paths[missing[0]]}; copy them to these paths, or save the images"
            " themselves: map datasets.table.embed_table_storage before to_parquet"
        )

    # images without names are numbered through the shard
    stem = shard.rpartition("/")[2].rpartition(".")[0]
    first = sum(reader.metadata.row_group(g).num_rows for g in range(group))
    return [
        ImageEntry(
            _file_name(path, content) or f"{stem}-{first + k:08d}{suffix_of(content)}",
            label,
            size,
            offset,
        )
        for k, (path, label, content, size, offset) in enumerate(
            zip(paths, labels, contents, sizes, offsets, strict=True)
        )
    ]


def local_path(path: str, shard: str) -> Path:
    """Return the file that a row names: an absolute path, or one beside the shard."""
    return Path(shard).parent / path


def _file_name(path: str | None, content: bytes | None) -> str:
    """Return the name of a row's image below the root; empty where it has none.

    A path that leads anywhere else is the path of the file that the image was read
    from, of which the last part is the name.
    """
    if not path:
        return ""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
    is_elsewhere = "\\" in path or path[:1] == "/" or "://" in path or ".." in parts
    name = parts[-1] if is_elsewhere else "/".join(parts)
    return name if has_image_suffix(name) else name + suffix_of(content)


def _find_offsets(
    reader: pq.ParquetFile, file: Any, group: int, column: str, contents: list[Any]
) -> list[int]:
    """Return the offset of each content in the file, or its encoded row.

    Arrow does not tell offsets, so each content is searched for after the last.
    """
    rows = [encode_row(group, k) for k in range(len(contents))]
    chunk = _column_chunk(reader, group, column)
    if (
        chunk.compression != "UNCOMPRESSED"
        or not set(chunk.encodings) <= PLAIN_ENCODINGS
    ):
        return rows
    start = chunk.data_page_offset
    file.seek(start)
    pages = file.read(chunk.total_compressed_size)
    offsets = []
    position = 0
    for row, content in zip(rows, contents, strict=True):
        # pages leave out what is null
        if content is None:
            offsets.append(row)
            continue
        # plain pages store each value behind its length
        length = len(content).to_bytes(4, "little")
        position = pages.find(length + content, position)
        if position < 0:
            return rows
        offsets.append(start + position + 4)
        position += 4 + len(content)
    return offsets


def _column_chunk(reader: pq.ParquetFile, group: int, path: str) -> Any:
    row_group = reader.metadata.row_group(group)
    columns = (row_group.column(k) for k in range(row_group.num_columns))
    return next(column for column in columns if column.path_in_schema == path)


def read_row(root: Any, shard: str, offset: int) -> bytes:
    """Return the image of an encoded row, or the file that the row names.

    Raises OSError where the row is empty or the file cannot be read.
    """
    group, row = decode_row(offset)
    content, path = (each[row].as_py() for each in _decode_group(root, shard, group))
    if content is None and path:
        return read_file(str(local_path(path, f"{root}/{shard}")))
    if not content:
        raise OSError(errno.ENODATA, "its row is empty", f"{root}/{shard}")
    return content


# Without a lock: threads that want one group at once may each decode it.
@lru_cache(MAX_GROUPS)
def _decode_group(root: Any, shard: str, group: int) -> tuple[pa.Array, pa.Array]:
    """Return the contents of a row group, and the paths."""
    with root.open(shard) as file:
        reader = pq.ParquetFile(file, pre_buffer=False)
        columns = find_columns(reader.schema_arrow, shard)
        table = reader.read_row_group(group, columns=[columns.image], **READ_OPTIONS)
    images = table[columns.image].combine_chunks()
    contents = images.field("bytes") if columns.is_struct else images
    paths = images.field("path") if columns.has_paths else pa.nulls(len(images))
    return contents, paths
