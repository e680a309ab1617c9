"""LitData's chunks, as src/prepare.py and other writers make them, beside index.json.

A chunk is a count, the offset of each item and the end of the last, then the items. An
item is the sizes of its leaves, then these. An image is an encoded file, or pixels.
"""

import json
import struct
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from unmask.config.datasets import ClassKey
from unmask.data.containers.litdata_leaves import (
    PIXEL_FORMATS,
    holds_label,
    read_label,
    read_pixel_header,
)
from unmask.data.containers.naming import suffix_of
from unmask.data.containers.roots import Root, Shard
from unmask.data.containers.scan_tar import ImageEntry, ScannedShard
from unmask.data.listing.conventions import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    find_column,
    has_image_suffix,
)

CHUNK_INDEX = "index.json"
# LitData's names of leaves that hold a whole image file.
ENCODED = ("jpeg", "bytes", "file", "image", "tifffile")
ARROW_MAGIC = b"ARROW1"
ARROW_HEADER = 8  # bytes of the name and its padding
MAGIC_BYTES = 6


class Item(NamedTuple):
    """Say what the leaves of an item are, by their positions.

    formats: LitData's, as pil, or no_header_tensor:17. names: their keys, as
    meta.label; "" in tuples.
    """

    formats: tuple[str, ...]
    names: tuple[str, ...]
    image: int
    label: int | None
    file_name: int | None


def read_chunk_index(path: Path) -> dict[str, Any]:
    """Read index.json. Raises ValueError where it is missing or damaged."""
    try:
        index = json.loads(path.read_bytes())
        return {"config": index["config"], "chunks": index["chunks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); copy it again: it says what the chunks"
            " beside it hold"
        ) from None


def missing_chunks(root: Root, shards: list[Shard]) -> list[str]:
    """Return the chunks that an index.json lists and that are not there."""
    present = {shard.name for shard in shards}
    folders = {shard.name.rpartition("/")[0] for shard in shards}
    missing = []
    for folder in sorted(folders):
        index = read_chunk_index(Path(str(root)) / folder / CHUNK_INDEX)
        names = (f"{folder}/{each['filename']}" for each in index["chunks"])
        missing += [name for name in names if name.lstrip("/") not in present]
    return [name.lstrip("/") for name in missing]


def scan_chunk(file: Any, shard: str) -> ScannedShard:
    """List the images of a chunk.

    Raises ValueError where it is cut off, compressed, or holds no encoded images.
    """
    config = read_chunk_index(Path(shard).with_name(CHUNK_INDEX))["config"]
    item = _describe_item(config, shard)
    stem = shard.rpartition("/")[2].rpartition(".")[0]
    chunk = file.read()
    try:
        (count,) = struct.unpack_from("<I", chunk)
        offsets = struct.unpack_from(f"<{count + 1}I", chunk, 4)
        if chunk[offsets[0] :].startswith(ARROW_MAGIC):
            entries = _read_columns(chunk, offsets[0], item, stem)
        else:
            if offsets[-1] > len(chunk):
                raise EOFError(f"{offsets[-1]} bytes are expected, not {len(chunk)}")
            entries = [
                _read_item(chunk, offset, item, f"{stem}-{k:08d}")
                for k, offset in enumerate(offsets[:-1])
            ]
    except (struct.error, EOFError, ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{shard} is not a complete chunk ({error}); copy or make it again"
        ) from None
    unread = tuple(
        f"the key {name or k}: {item.formats[k]}"
        for k, name in enumerate(item.names)
        if k not in (item.image, item.label, item.file_name)
    )
    return ScannedShard(entries, unread=unread)


def _describe_item(config: dict[str, Any], shard: str) -> Item:
    formats = tuple(config.get("data_format") or ())
    names = _leaf_names(config, len(formats))
    images = [k for k, kind in enumerate(formats) if kind.partition(":")[0] in ENCODED]
    images = images or [k for k, kind in enumerate(formats) if kind in PIXEL_FORMATS]
    packings = ("compression", "encryption", "ipc_compression")
    is_packed = next((config[key] for key in packings if config.get(key)), None)
    if not images or is_packed:
        found = f"compression {is_packed}" if is_packed else ", ".join(formats)
        raise ValueError(
            f"{shard} holds items of {found}; make it again with images as JPEG files,"
            " bytes or arrays, without compression"
        )

    def find(leaves: list[int], wanted: tuple[str, ...]) -> int | None:
        """Return the leaf whose key is spelt like the first of the wanted ones."""
        keys = [names[k].rpartition(".")[2] for k in leaves]
        key = find_column(keys, wanted)
        return None if key is None else leaves[keys.index(key)]

    image = find(images, IMAGE_COLUMNS)
    image = images[0] if image is None else image
    others = [k for k, kind in enumerate(formats) if holds_label(kind) and k != image]
    label = find(others, LABEL_COLUMNS)
    if label is None:
        numbers = (k for k in others if formats[k] != "str" and not names[k])
        label = next(numbers, None)
    texts = [k for k in others if formats[k] == "str" and k != label]
    named = find(texts, IMAGE_COLUMNS)
    if named is None:
        named = next((k for k in texts if not names[k]), None)
    return Item(formats, names, image, label, named)


def _leaf_names(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the keys of an item's leaves, joined by points; "" in tuples."""
    try:
        names = tuple(_names_below(json.loads(config["data_spec"])[1], ""))
    except (KeyError, TypeError, ValueError, IndexError):
        names = ()
    return names if len(names) == count else ("",) * count


def _names_below(spec: dict[str, Any], name: str) -> Iterator[str]:
    if not spec["children_spec"]:
        yield name
        return
    keys = json.loads(spec["context"]) or [""] * len(spec["children_spec"])
    for key, child in zip(keys, spec["children_spec"], strict=True):
        yield from _names_below(child, f"{name}.{key}".strip("."))


def _read_item(chunk: bytes, offset: int, item: Item, unnamed: str) -> ImageEntry:
    """Return the image of an item; unnamed: the name of an image without one."""
    num_leaves = len(item.formats)
    sizes = struct.unpack_from(f"<{num_leaves}I", chunk, offset)
    ends = list(accumulate(sizes, initial=offset + 4 * num_leaves))

    def read(leaf: int | None) -> bytes:
        return b"" if leaf is None else chunk[ends[leaf] : ends[leaf + 1]]

    label: ClassKey | None = None
    if item.label is not None:
        label = read_label(read(item.label), item.formats[item.label])
    name = read(item.file_name).decode()
    size, start = sizes[item.image], ends[item.image]
    kind = item.formats[item.image]
    if kind in PIXEL_FORMATS:
        header, pixels = read_pixel_header(read(item.image), kind)
        # .npy: pixels may have more than 8 bits
        name = name if has_image_suffix(name) else f"{unnamed}.npy"
        return ImageEntry(name, label, size - header, start + header, pixels)
    if not has_image_suffix(name):
        name = unnamed + suffix_of(read(item.image)[:MAGIC_BYTES])
    return ImageEntry(name, label, size, start)


def _read_columns(chunk: bytes, start: int, item: Item, stem: str) -> list[ImageEntry]:
    """Return the images of a chunk whose items are columns of an Arrow file.

    So LitData writes dicts of bytes, numbers and words. Arrow's arrays share the memory
    of the chunk, so that their addresses tell where an image is.
    """
    whole = pa.py_buffer(chunk)
    # a file of Arrow is a stream behind its name, and has more after it here
    table = pa.ipc.open_stream(whole[start + ARROW_HEADER :]).read_all()
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    labels = table[item.names[item.label]].to_pylist() if item.label is not None else []
    named = item.file_name
    names = [] if named is None else table[item.names[named]].to_pylist()
    entries: list[ImageEntry] = []
    for column in table[item.names[item.image]].chunks:
        _, ends, values = column.buffers()
        kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        bounds = np.frombuffer(ends, kind)[column.offset :][: len(column) + 1]
        first = values.address - whole.address
        for low, high in pairwise(bounds.tolist()):
            k = len(entries)
            name = names[k] if names else ""
            if not has_image_suffix(name):
                content = chunk[first + low : first + low + MAGIC_BYTES]
                name = f"{stem}-{k:08d}{suffix_of(content)}"
            label = labels[k] if labels else None
            entries.append(ImageEntry(name, label, high - low, first + low))
    return entries
