"""What a conversion writes: shards that are planned beforehand, so that one that was killed goes on where it stood."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64

from unmask.data.containers.change import Change
from unmask.data.containers.writers import Sample, digest_of
from unmask.data.images.unreadable import BadImageError, content_of, reason_of
from unmask.data.listing.catalogue import PREPARING, Catalogue, within
from unmask.storage.atomic import sha256, write_json

PATTERNS = {
    "webdataset": "{split}-{number:06d}.tar",
    "parquet": "data/{split}-{number:05d}-of-{count:05d}.parquet",
    "litdata": "{folder}chunk-0-{number}.bin",
    "raw": "{split}-{number:06d}.pixels",
    "folder": "{split}-{number:06d}",
}
SHARD_MB = {
    "webdataset": 256,
    "parquet": 256,
    "litdata": 64,
    "raw": 1024,
    "folder": 256,
}
# begins the reason where an image is empty because its file gave none
UNREAD = "not read: "
PEEKED = 48  # images that tell how much smaller the rest becomes


@dataclass(frozen=True)
class Task:
    """One shard: its name below the target, and the places of its images in the source."""

    name: str
    places: Int[np.ndarray, "M"]


@dataclass
class Record:
    """What became of a shard: rows of (name, label, size, offset, shape), sha256 of each image and of the file."""

    size: int
    sha256: str
    rows: list[list]
    digests: list[str]
    bad: list[list[str]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.__dict__)

    def unread(self) -> dict[str, str]:
        """Of images whose files could not be read, for which nothing is stored: why not, by name."""
        return unread_among(dict(self.bad))

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def unread_among(bad: dict[str, str]) -> dict[str, str]:
    """Of reasons by name those of files that gave nothing."""
    return {
        name: why.removeprefix(UNREAD)
        for name, why in bad.items()
        if why.startswith(UNREAD)
    }


def record_path(target: Path, task: Task) -> Path:
    return target / PREPARING / f"{task.name.replace('/', '+')}.json"


def finished(target: Path, task: Task) -> Record | None:
    """Where the shard stands whole, by its checksum."""
    record, path = Record.read(record_path(target, task)), target / task.name
    if record is None:
        return None
    if path.suffix == "":  # a folder's files
        found = (target / str(row[0]) for row in record.rows)
        whole = all(
            p.is_file() and sha256(p) == digest
            for p, digest in zip(found, record.digests, strict=True)
        )
        return record if whole else None
    return (
        record
        if path.is_file()
        and path.stat().st_size == record.size
        and sha256(path) == record.sha256
        else None
    )


def planned(
    found: Catalogue, sizes: Int64[np.ndarray, "N"], kind: str, shard_bytes: int
) -> list[Task]:
    """Shards of about so many bytes, each of one split, in the order of names."""
    tasks = []
    for split, part in _splits(found):
        ends = np.cumsum(sizes[part])
        owners = (ends - sizes[part]) // shard_bytes
        places = np.arange(part.start, part.stop)
        groups = (
            np.split(places, np.flatnonzero(np.diff(owners)) + 1) if len(places) else []
        )
        for number, group in enumerate(groups):
            folder = f"{split}/" if split != "images" else ""
            name = PATTERNS[kind].format(
                split=split, folder=folder, number=number, count=len(groups)
            )
            tasks.append(Task(name, group))
    return tasks


def _splits(found: Catalogue) -> Iterator[tuple[str, slice]]:
    """All splits, and what lies beside them or without any."""
    start = 0
    for split in sorted(found.splits):
        part = within(found.names, split)
        if part.start > start:
            yield "images", slice(start, part.start)
        yield split, part
        start = part.stop
    if start < len(found.names):
        yield "images", slice(start, len(found.names))


def stored_sizes(found: Catalogue, change: Change) -> Int64[np.ndarray, "N"]:
    """Bytes of each image in the target: as they are, else by what becomes of some."""
    if change.copies:
        return found.sizes
    some = np.unique(np.linspace(0, len(found.names) - 1, PEEKED).astype(int))
    before, after = 0, 0
    for place in some.tolist():
        before += max(1, int(found.sizes[place]))
        try:
            changed = change(stored(found, place), found.names[place])
            after += len(changed) if isinstance(changed, bytes) else changed.size
        except Exception:  # told when it is converted
            after += int(found.sizes[place])
    if change.channels is not None:  # pixels do not follow the size of a file
        return np.full(len(found.names), max(1, after // len(some)), dtype=np.int64)
    return np.maximum(1, (found.sizes * (after / before)).astype(np.int64))


def stored(found: Catalogue, place: int) -> bytes | np.ndarray:
    """Raises BadImageError: in the midst of writing an OSError would be told of the target."""
    try:
        return content_of(found.store, place)
    except BadImageError as error:
        raise BadImageError(error.name, f"{UNREAD}{error.reason}") from error


def plan_id(found: Catalogue, change: Change, kind: str, tasks: list[Task]) -> str:
    """What a conversion that goes on must agree on: the images with their labels, and what is made of them."""
    whole = hashlib.sha256(
        f"{kind} {change} {[(task.name, len(task.places)) for task in tasks]}\n".encode()
    )
    for array in (
        found.names.text,
        found.names.ends - found.names.ends[0],
        found.sizes,
    ):
        whole.update(np.ascontiguousarray(array).data)
    if found.labels is not None:
        whole.update(
            f"{found.classes}".encode() + np.ascontiguousarray(found.labels).data
        )
    return whole.hexdigest()[:16]


class Images:
    """Of a task, one after the other, changed; each is known by the checksum of what is stored of it."""

    def __init__(
        self, found: Catalogue, task: Task, change: Change, labels: Int[np.ndarray, "N"]
    ) -> None:
        self.found, self.task, self.change, self.labels = found, task, change, labels
        self.rows: list[list] = []
        self.digests: list[str] = []
        self.bad: list[list[str]] = []

    def __iter__(self) -> Iterator[Sample]:
        for place in self.task.places.tolist():
            name, label = self.found.names[place], int(self.labels[place])
            content = self._content(place, name)
            shape = None if isinstance(content, bytes) else list(content.shape)
            self.rows.append(
                [
                    name,
                    label,
                    len(content) if isinstance(content, bytes) else content.size,
                    0,
                    shape,
                ]
            )
            self.digests.append(digest_of(content))
            yield Sample(name, label, content)

    def _content(self, place: int, name: str) -> bytes | np.ndarray:
        content: bytes | np.ndarray = b""
        try:
            content = stored(self.found, place)
            return self.change(content, name)
        except Exception as error:  # of a bad image: whatever Pillow raises
            self.bad.append([name, reason_of(error)])
            # no pixels can be stored of it; who trains on it is told as of any bad
            # image
            return (
                content
                if self.change.channels is None
                else np.zeros((0, 0, self.change.channels), np.uint8)
            )
