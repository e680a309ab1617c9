"""One shard each of WebDataset, Parquet and LitData by their own libraries, of raw pixels and of a folder by hand."""

import hashlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from unmask.data.containers.parquet import scan_parquet
from unmask.data.containers.tars import Row, scan_tar
from unmask.storage.atomic import replacing

ROWS = 100  # of a row group, as on the Hub
MAKING = ".chunk"  # how folders begin in which LitData makes one


class Sample(NamedTuple):
    name: str
    label: int
    content: bytes | UInt8[np.ndarray, "H W C"]


Samples = Iterable[Sample]


def write_tar(path: Path, samples: Samples, classes: tuple[str, ...]) -> None:
    from webdataset.writer import TarWriter

    with (
        replacing(path) as file,
        TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        for name, label, content in samples:
            key, _, suffix = name.rpartition(".")
            beside = {} if label < 0 else {"cls": str(label).encode()}
            tar.write({"__key__": key, suffix: content, **beside})


def write_parquet(path: Path, samples: Samples, classes: tuple[str, ...]) -> None:
    """Plain pages without compression: images are compressed already, and are read by offset."""
    label = (
        {"names": list(classes), "_type": "ClassLabel"}
        if classes
        else {"dtype": "int64", "_type": "Value"}
    )
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps(about)},
    )
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with replacing(path) as file, pq.ParquetWriter(file, schema, **plain) as writer:
        for batch in batches(samples, ROWS):
            images = [
                {"bytes": sample.content, "path": sample.name} for sample in batch
            ]
            writer.write_batch(
                pa.record_batch(
                    [pa.array(images, image), [s.label for s in batch]], schema=schema
                )
            )


def batches(samples: Samples, size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_chunk(path: Path, samples: Samples, classes: tuple[str, ...]) -> None:
    """A sample is (image, name, label): a dict would be read a window of 256 at a time."""
    from litdata.streaming.writer import BinaryWriter

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=MAKING) as folder:
        writer = BinaryWriter(folder, chunk_bytes=2**31)
        for k, sample in enumerate(samples):
            writer[k] = (sample.content, sample.name, sample.label)
        (made,) = writer.done()
        writer.merge()
        # the form of all; its list is written in the end
        with replacing(path.with_name("index.json")) as file:
            file.write((Path(folder) / "index.json").read_bytes())
        with open(made, "rb") as chunk:  # noqa: PTH123
            os.fsync(chunk.fileno())
        Path(made).replace(path)


def write_pixels(path: Path, samples: Samples, classes: tuple[str, ...]) -> None:
    with replacing(path) as file:
        for sample in samples:
            assert isinstance(sample.content, np.ndarray)
            file.write(np.ascontiguousarray(sample.content).data)


def scan_chunk(file: io.BufferedIOBase) -> list[Row]:
    """LitData's layout: a count, where each item begins and the last ends; of an item the sizes of its parts first."""
    (count,) = struct.unpack("<I", file.read(4))
    places = struct.unpack(f"<{count + 1}I", file.read(4 * (count + 1)))
    rows = []
    for place in places[:-1]:
        file.seek(place)
        image, name, label = struct.unpack("<3I", file.read(12))
        file.seek(place + 12 + image)
        tail = file.read(name + label)
        number = int.from_bytes(tail[name:], "little", signed=True)
        rows.append(Row(tail[:name].decode("utf-8"), number, image, place + 12))
    return rows


WRITE: dict[str, Callable[[Path, Samples, tuple[str, ...]], None]] = {
    "webdataset": write_tar,
    "parquet": write_parquet,
    "litdata": write_chunk,
    "raw": write_pixels,
}


def read_back(kind: str, path: Path) -> list[Row]:
    """Names, sizes and places, as who reads the shard will find them; of raw pixels nothing can be found."""
    with path.open("rb") as file:
        if kind == "webdataset":
            return scan_tar(file, str(path)).rows
        if kind == "parquet":
            return scan_parquet(file, str(path)).rows
        return scan_chunk(file) if kind == "litdata" else []


def digest_of(content: bytes | UInt8[np.ndarray, "H W C"]) -> str:
    return hashlib.sha256(
        content if isinstance(content, bytes) else np.ascontiguousarray(content).data
    ).hexdigest()
