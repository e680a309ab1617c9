"""Writers of one shard each: WebDataset, Parquet and LitData by their own libraries.

Raw pixels are written as they are.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from unmask.data.containers.litdata import CHUNK_INDEX, scan_chunk
from unmask.data.containers.parquet import scan_parquet
from unmask.data.containers.scan_tar import ImageEntry, scan_tar
from unmask.data.containers.tar_names import KeyEncoder
from unmask.storage.atomic import atomic_write

# Images in a row group, as on the Hub.
ROWS_PER_GROUP = 100

# Begins the names of temporary folders in which LitData writes a chunk.
CHUNK_FOLDER_PREFIX = ".chunk"


class Sample(NamedTuple):
    """Hold an image as it is stored; label: -1 without classes."""

    name: str
    label: int
    content: bytes | Shaped[np.ndarray, "H W C"]


def write_tar(path: Path, samples: Iterable[Sample], classes: tuple[str, ...]) -> None:
    """Write a tar in which labels lie beside the images, as WebDataset reads them."""
    from webdataset.writer import TarWriter

    with (
        atomic_write(path) as file,
        # mtime=0: the same images make the same bytes
        TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        encode = KeyEncoder()
        for name, label, content in samples:
            key, suffix = encode(name)
            label_member = {} if label < 0 else {"cls": str(label).encode()}
            tar.write({"__key__": key, suffix: content, **label_member})


def write_parquet(
    path: Path, samples: Iterable[Sample], classes: tuple[str, ...]
) -> None:
    """Write a Parquet file with the Hub's columns.

    Pages are plain and uncompressed, so that images, compressed already, can be read by
    offset.
    """
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image_type), ("label", pa.int64())],
        metadata={"huggingface": json.dumps(_hub_metadata(classes))},
    )
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, **plain) as writer:
        for rows in _in_groups(samples, ROWS_PER_GROUP):
            images = [{"bytes": row.content, "path": row.name} for row in rows]
            labels = [row.label for row in rows]
            columns = [pa.array(images, image_type), labels]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _hub_metadata(classes: tuple[str, ...]) -> dict:
    """Describe the columns as the library datasets does."""
    if classes:
        label = {"names": list(classes), "_type": "ClassLabel"}
    else:
        label = {"dtype": "int64", "_type": "Value"}
    return {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}


def _in_groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def write_chunk(
    path: Path, samples: Iterable[Sample], classes: tuple[str, ...]
) -> None:
    """Write a chunk of LitData, and an index.json that describes its items."""
    from litdata.streaming.serializers import (
        BytesSerializer,
        IntegerSerializer,
        StringSerializer,
    )
    from litdata.streaming.writer import BinaryWriter

    class NameSerializer(StringSerializer):
        """Store each name as text: LitData pickles it where a file has that name."""

        def can_serialize(self, data: Any) -> bool:
            return isinstance(data, str)

    serializers = {
        "str": NameSerializer(),
        "int": IntegerSerializer(),
        "bytes": BytesSerializer(),
    }

    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=CHUNK_FOLDER_PREFIX
    ) as folder:
        # as large as LitData allows: the shard is one chunk
        writer = BinaryWriter(folder, chunk_bytes=2**31, serializers=serializers)
        for k, sample in enumerate(samples):
            # a tuple: dicts would be read a window of 256 at a time
            writer[k] = (sample.content, sample.name, sample.label)
        (chunk_path,) = writer.done()
        writer.merge()
        # All chunks have items of one form, so any chunk's index.json will do; the
        # list of chunks in it is replaced when all are written.
        with atomic_write(path.with_name(CHUNK_INDEX)) as file:
            file.write((Path(folder) / CHUNK_INDEX).read_bytes())
        with open(chunk_path, "rb") as chunk:  # noqa: PTH123
            os.fsync(chunk.fileno())
        Path(chunk_path).replace(path)


def write_pixels(
    path: Path, samples: Iterable[Sample], classes: tuple[str, ...]
) -> None:
    """Write raw pixels one after the other; the index alone knows their shapes."""
    with atomic_write(path) as file:
        for sample in samples:
            assert isinstance(sample.content, np.ndarray)
            file.write(np.ascontiguousarray(sample.content).data)


WRITERS: dict[str, Callable[[Path, Iterable[Sample], tuple[str, ...]], None]] = {
    "webdataset": write_tar,
    "parquet": write_parquet,
    "litdata": write_chunk,
    "raw": write_pixels,
}


def read_back(kind: str, path: Path) -> list[ImageEntry]:
    """List the images of a shard as its readers will find them.

    Raw pixels have no headers, so of them nothing is listed.
    """
    with path.open("rb") as file:
        if kind == "webdataset":
            return scan_tar(file, str(path)).entries
        if kind == "parquet":
            return scan_parquet(file, str(path)).entries
        return scan_chunk(file, str(path)).entries if kind == "litdata" else []


def content_digest(content: bytes | Shaped[np.ndarray, "H W C"]) -> str:
    """Return the sha256 of a file's bytes, or of raw pixels."""
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).data
    return hashlib.sha256(data).hexdigest()
