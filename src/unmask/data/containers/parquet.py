"""Parquet shards, as on the Hub: a column of struct<bytes, path>, labels as integers, names of classes in the metadata.

Where pages are plain and not compressed, an image's bytes stand in the file as they are and are read by offset. Else a
row group is decoded for it.
"""

import json
from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.data.containers.tars import Found, Row

IMAGES, LABELS = (
    ("image", "img", "jpg", "jpeg", "png"),
    (
        "label",
        "labels",
        "fine_label",
        "cls",
        "target",
    ),
)
# the latter two are of levels, not of values
PLAIN = frozenset(["PLAIN", "RLE", "BIT_PACKED"])
ROW_BITS = 32
Reading = dict[str, Any]
QUIETLY: Reading = {"use_threads": False}


def row_place(group: int, row: int) -> int:
    """A number below zero for a row that has no offset."""
    return -1 - (group << ROW_BITS | row)


def row_at(place: int) -> tuple[int, int]:
    return divmod(-1 - place, 1 << ROW_BITS)


def scan_parquet(file: Any, shard: str) -> Found:
    """All of it is read once, for the sizes of the images. Raises ValueError where it is damaged or holds no images."""
    try:
        reader = pq.ParquetFile(file, pre_buffer=False)
        image, label, classes = columns(reader.schema_arrow, shard)
        rows: list[Row] = []
        for group in range(reader.num_row_groups):
            rows += _scan_group(reader, file, group, (image, label), shard)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{shard} is no whole Parquet file ({str(error).strip()}); copy or make it"
            " again"
        ) from None
    return Found(rows, classes)


def columns(schema: pa.Schema, shard: str) -> tuple[str, str | None, tuple[str, ...]]:
    """(image, label, names of classes), by the Hub's metadata or by the usual names."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    images = [
        name
        for name, kind in features.items()
        if isinstance(kind, dict) and kind.get("_type") == "Image"
    ]
    named = {
        name: kind["names"]
        for name, kind in features.items()
        if isinstance(kind, dict) and "names" in kind
    }
    image = next(
        (
            name
            for name in (*images, *IMAGES)
            if name in schema.names and _holds_bytes(schema, name)
        ),
        None,
    )
    if image is None:
        raise ValueError(
            f"{shard} has the columns {', '.join(schema.names)}; expected image:"
            " struct<bytes, path>"
        )
    label = next((name for name in (*named, *LABELS) if name in schema.names), None)
    if label is not None and not pa.types.is_integer(schema.field(label).type):
        label = None
    return image, label, tuple(named.get(label, ())) if label else ()


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _scan_group(
    reader: pq.ParquetFile,
    file: Any,
    group: int,
    names: tuple[str, str | None],
    shard: str,
) -> list[Row]:
    image, label = names
    table = reader.read_row_group(
        group, columns=[name for name in names if name], **QUIETLY
    )
    images = table[image].combine_chunks()
    contents = images.field("bytes").to_pylist()
    known = images.type.get_field_index("path") >= 0
    paths = images.field("path").to_pylist() if known else [None] * len(contents)
    labels = table[label].to_pylist() if label else [-1] * len(contents)
    places = _offsets(reader, file, group, image, contents)
    stem = shard.rpartition("/")[2].rpartition(".")[0]
    before = len(contents) and sum(
        reader.metadata.row_group(g).num_rows for g in range(group)
    )
    return [
        Row(
            path or f"{stem}-{before + k:08d}{_suffix(content)}",
            -1 if each is None else each,
            len(content or b""),
            place,
        )
        for k, (path, each, content, place) in enumerate(
            zip(paths, labels, contents, places, strict=True)
        )
    ]


def _suffix(content: bytes | None) -> str:
    return ".png" if (content or b"").startswith(b"\x89PNG") else ".jpg"


def _offsets(
    reader: pq.ParquetFile, file: Any, group: int, image: str, contents: list[Any]
) -> list[int]:
    """Where each content stands in the file, found by looking for it after the one before; else its row."""
    chunk = _chunk(reader, group, f"{image}.bytes")
    if chunk.compression != "UNCOMPRESSED" or not set(chunk.encodings) <= PLAIN:
        return [row_place(group, k) for k in range(len(contents))]
    start, places, at = chunk.data_page_offset, [], 0
    file.seek(start)
    raw = file.read(chunk.total_compressed_size)
    for k, content in enumerate(contents):
        content = content or b""
        at = raw.find(len(content).to_bytes(4, "little") + content, at)
        if at < 0:
            return [row_place(group, k) for k in range(len(contents))]
        places.append(start + at + 4)
        at += 4 + len(content)
    return places


def _chunk(reader: pq.ParquetFile, group: int, path: str) -> Any:
    about = reader.metadata.row_group(group)
    return next(
        about.column(k)
        for k in range(about.num_columns)
        if about.column(k).path_in_schema == path
    )


class RowGroups:
    """Decoded row groups of compressed files, the last few of them. For one process and one thread at a time."""

    def __init__(self, kept: int = 4) -> None:
        self.kept, self.groups = kept, OrderedDict[tuple[str, int], pa.Array]()

    def read(self, root: Any, shard: str, place: int) -> bytes:
        group, row = row_at(place)
        if (shard, group) not in self.groups:
            with root.open(shard) as file:
                reader = pq.ParquetFile(file, pre_buffer=False)
                image, _, _ = columns(reader.schema_arrow, shard)
                table = reader.read_row_group(
                    group, columns=[f"{image}.bytes"], **QUIETLY
                )
            self.groups[shard, group] = table[image].combine_chunks().field("bytes")
            while len(self.groups) > self.kept:
                self.groups.popitem(last=False)
        self.groups.move_to_end((shard, group))
        return self.groups[shard, group][row].as_py() or b""
