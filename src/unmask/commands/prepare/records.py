"""Records of what was written into each shard, so that a later call can keep it."""

import csv
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unmask.commands.prepare.shard_tasks import ShardTask
from unmask.data.containers.contents import BYTES_CODE, Contents
from unmask.data.containers.index import INDEX_FILE, read_index
from unmask.data.listing.catalogue import PREPARED_FILE, PREPARING_FOLDER
from unmask.data.listing.names import unpack_names
from unmask.storage.atomic import sha256, write_csv_rows, write_json

BAD_IMAGES_FILE = "bad_images.csv"

# Begins the reason of an image that is empty because its file could not be read.
UNREAD_PREFIX = "not read: "


class StoredImage(NamedTuple):
    """Describe an image as a shard holds it.

    shape: of raw pixels, and the code of their type. sha256: of what is stored. bad:
    why the image could not be read or decoded; empty for a good one.
    """

    name: str
    label: int
    size: int
    offset: int
    shape: list[int] | None
    sha256: str
    bad: str = ""

    @property
    def is_unread(self) -> bool:
        return self.bad.startswith(UNREAD_PREFIX)


@dataclass(frozen=True)
class ShardRecord:
    """List the images of a shard; sha256: of its file, empty in a folder of images."""

    sha256: str
    images: list[StoredImage]

    def write(self, target: Path, task: ShardTask) -> None:
        write_json(record_path(target, task), self.__dict__)

    def is_intact(self, target: Path, task: ShardTask) -> bool:
        """Say by checksums whether all is still there as it was written."""
        if self.sha256:
            return _has_digest(target / task.name, self.sha256)
        return all(
            _has_digest(target / image.name, image.sha256) for image in self.images
        )


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def record_path(target: Path, task: ShardTask) -> Path:
    """Return where a shard's record lies while a conversion is not finished."""
    return target / PREPARING_FOLDER / f"{task.name.replace('/', '+')}.json"


def load_records(
    target: Path, tasks: list[ShardTask], kind: str
) -> dict[str, ShardRecord]:
    """Load the records of what earlier calls wrote, by names of shards.

    Once a target is finished its index has them.
    """
    records = _indexed_records(target, kind)
    for task in tasks:
        # a record that is damaged, or of another version, is as good as none
        with suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(record_path(target, task).read_bytes())
            images = [StoredImage(*image) for image in record["images"]]
            records[task.name] = ShardRecord(record["sha256"], images)
    return records


def _indexed_records(target: Path, kind: str) -> dict[str, ShardRecord]:
    contents = read_index(target / INDEX_FILE, kind)
    if contents is None or contents.digests is None:
        return {}
    try:
        prepared = json.loads((target / PREPARED_FILE).read_bytes())
    # the index is written before
    except FileNotFoundError:
        return {}
    reasons = read_bad_images(target)
    images: list[list[StoredImage]] = [[] for _ in contents.shards]
    for i, name in enumerate(unpack_names(contents.names)):
        image = StoredImage(
            name,
            int(contents.labels[i]),
            int(contents.sizes[i]),
            int(contents.offsets[i]),
            _shape_and_type(contents, i),
            contents.digests[i].tobytes().hex(),
            reasons.get(name, ""),
        )
        images[contents.shard_ids[i]].append(image)
    return {
        shard.name: ShardRecord(prepared["sha256"][shard.name], stored)
        for shard, stored in zip(contents.shards, images, strict=True)
    }


def _shape_and_type(contents: Contents, i: int) -> list[int] | None:
    if contents.shapes is None:
        return None
    dtype = BYTES_CODE if contents.dtypes is None else int(contents.dtypes[i])
    return [*contents.shapes[i].tolist(), dtype]


def write_bad_images(target: Path, bad: list[StoredImage]) -> None:
    """Write name and reason of each bad image; without any, remove an older file."""
    path = target / BAD_IMAGES_FILE
    path.unlink(missing_ok=True)
    if bad:
        rows = [("image", "reason"), *((image.name, image.bad) for image in bad)]
        write_csv_rows(path, rows)


def read_bad_images(target: Path) -> dict[str, str]:
    """Read the reasons of bad images by name; empty where there is no file."""
    path = target / BAD_IMAGES_FILE
    if not path.exists():
        return {}
    # surrogateescape: names of files may be any bytes
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return dict(list(csv.reader(file))[1:])
