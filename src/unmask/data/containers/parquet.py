"""Parquet shards as on the Hub: images as struct<bytes, path>, labels as integers.

Where pages are plain and uncompressed, the file contains an image's bytes unchanged
and they are read by offset. Otherwise a whole row group is decoded for one image.
"""

import json
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.data.containers.scan_tar import ImageEntry, ScannedShard

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "target")

# Encodings that leave values as they are; the last two are of levels, not of values.
PLAIN_ENCODINGS = frozenset(["PLAIN", "RLE", "BIT_PACKED"])

# Shards are scanned and read in many threads already.
READ_OPTIONS: dict[str, Any] = {"use_threads": False}

# Decoded row groups of compressed files that a process keeps.
MAX_GROUPS = 8

# Bits for the row in a location that encodes (row group, row).
ROW_BITS = 32


def encode_row(group: int, row: int) -> int:
    """Encode a row without an offset as a number below zero, in place of the offset."""
    return -1 - (group << ROW_BITS | row)


def decode_row(offset: int) -> tuple[int, int]:
    """Return the (row group, row) of a number below zero."""
    return divmod(-1 - offset, 1 << ROW_BITS)


def scan_parquet(file: Any, shard: str) -> ScannedShard:
    """List the images of a shard, which is read as a whole for their sizes.

    Raises ValueError where it is damaged or holds no images.
    """
    try:
        reader = pq.ParquetFile(file, pre_buffer=False)
        image, label, classes = find_columns(reader.schema_arrow, shard)
        entries: list[ImageEntry] = []
        for group in range(reader.num_row_groups):
            entries += _scan_group(reader, file, group, (image, label), shard)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{shard} is not a complete Parquet file ({str(error).strip()}); copy or"
            " make it again"
        ) from None
    return ScannedShard(entries, classes)


def find_columns(
    schema: pa.Schema, shard: str
) -> tuple[str, str | None, tuple[str, ...]]:
    """Return (image column, label column, class names).

    Columns are found by the Hub's metadata, or by the usual names. Raises ValueError
    where no column holds images.
    """
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    features = {k: v for k, v in features.items() if isinstance(v, dict)}
    images = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    class_names = {
        name: kind["names"] for name, kind in features.items() if "names" in kind
    }
    candidates = (*images, *IMAGE_COLUMNS)
    image = next((name for name in candidates if _holds_bytes(schema, name)), None)
    if image is None:
        raise ValueError(
            f"{shard} has the columns {', '.join(schema.names)}; expected image:"
            " struct<bytes, path>"
        )
    candidates = (*class_names, *LABEL_COLUMNS)
    label = next((name for name in candidates if name in schema.names), None)
    # a column called label may hold words, which are not indices of classes
    if label is None or not pa.types.is_integer(schema.field(label).type):
        return image, None, ()
    return image, label, tuple(class_names.get(label, ()))


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _scan_group(
    reader: pq.ParquetFile,
    file: Any,
    group: int,
    columns: tuple[str, str | None],
    shard: str,
) -> list[ImageEntry]:
    image, label = columns
    table = reader.read_row_group(
        group, columns=[name for name in columns if name], **READ_OPTIONS
    )
    images = table[image].combine_chunks()
    contents = images.field("bytes").to_pylist()
    has_paths = images.type.get_field_index("path") >= 0
    paths = images.field("path").to_pylist() if has_paths else [None] * len(contents)
    labels = table[label].to_pylist() if label else [-1] * len(contents)
    offsets = _find_offsets(reader, file, group, image, contents)

    # images without names are numbered through the shard
    stem = shard.rpartition("/")[2].rpartition(".")[0]
    first = sum(reader.metadata.row_group(g).num_rows for g in range(group))
    return [
        ImageEntry(
            path or f"{stem}-{first + k:08d}{_suffix(content)}",
            -1 if each is None else each,
            len(content or b""),
            offset,
        )
        for k, (path, each, content, offset) in enumerate(
            zip(paths, labels, contents, offsets, strict=True)
        )
    ]


def _suffix(content: bytes | None) -> str:
    return ".png" if (content or b"").startswith(b"\x89PNG") else ".jpg"


def _find_offsets(
    reader: pq.ParquetFile, file: Any, group: int, image: str, contents: list[Any]
) -> list[int]:
    """Return the offset of each content in the file, or its encoded row.

    Arrow does not tell offsets, so each content is searched for after the last.
    """
    rows = [encode_row(group, k) for k in range(len(contents))]
    chunk = _column_chunk(reader, group, f"{image}.bytes")
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
    for content in contents:
        content = content or b""
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
    """Return the image of an encoded row."""
    group, row = decode_row(offset)
    return _decode_group(root, shard, group)[row].as_py() or b""


# Without a lock: threads that want one group at once may each decode it.
@lru_cache(MAX_GROUPS)
def _decode_group(root: Any, shard: str, group: int) -> pa.Array:
    with root.open(shard) as file:
        reader = pq.ParquetFile(file, pre_buffer=False)
        image, _, _ = find_columns(reader.schema_arrow, shard)
        table = reader.read_row_group(group, columns=[f"{image}.bytes"], **READ_OPTIONS)
    return table[image].combine_chunks().field("bytes")
