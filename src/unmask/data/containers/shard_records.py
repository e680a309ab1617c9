"""Records of shards that a conversion has written, so that it can continue later."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from unmask.data.containers.shard_tasks import ShardTask
from unmask.data.listing.catalogue import PREPARING_FOLDER
from unmask.storage.atomic import sha256, write_json

# Begins the reason of an image that is empty because its file could not be read.
UNREAD_PREFIX = "not read: "

# Positions in a record's rows.
NAME, LABEL, SIZE, OFFSET, SHAPE = range(5)


@dataclass
class ShardRecord:
    """Hold what was written to a shard; the fields are keys of a JSON file.

    size, sha256: of the file.
    rows: [name, label, size, offset, shape] of each image.
    digests: sha256 of each image.
    bad: [name, reason] of images that could not be read or decoded.
    """

    size: int
    sha256: str
    rows: list[list]
    digests: list[str]
    bad: list[list[str]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the record, and make its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.__dict__)

    def unread_reasons(self) -> dict[str, str]:
        """Return the reasons, by name, of images that could not be read at all."""
        return select_unread(dict(self.bad))

    @classmethod
    def read(cls, path: Path) -> "ShardRecord | None":
        """Read a record; None where there is none, or it is damaged."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def select_unread(bad: dict[str, str]) -> dict[str, str]:
    """Select bad images whose files could not be read at all; reasons by name."""
    return {
        name: reason.removeprefix(UNREAD_PREFIX)
        for name, reason in bad.items()
        if reason.startswith(UNREAD_PREFIX)
    }


def record_path(target: Path, task: ShardTask) -> Path:
    """Return where a shard's record lies while a conversion is not finished."""
    return target / PREPARING_FOLDER / f"{task.name.replace('/', '+')}.json"


def load_finished_record(target: Path, task: ShardTask) -> ShardRecord | None:
    """Return the record of a shard that is complete by its checksum, otherwise None."""
    record = ShardRecord.read(record_path(target, task))
    if record is None:
        return None
    path = target / task.name
    # without a suffix the shard is a part of a folder of image files
    if path.suffix == "":
        is_complete = all(
            _has_digest(target / str(row[NAME]), digest)
            for row, digest in zip(record.rows, record.digests, strict=True)
        )
    else:
        is_complete = (
            path.is_file()
            and path.stat().st_size == record.size
            and sha256(path) == record.sha256
        )
    return record if is_complete else None


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest
