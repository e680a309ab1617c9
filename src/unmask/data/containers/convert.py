"""A source made into another container: in parallel, shard by shard, each read back and compared before it counts."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unmask.data.containers.change import Change
from unmask.data.containers.contents import INDEX, Contents, write_index
from unmask.data.containers.roots import Shard
from unmask.data.containers.tasks import (
    Images,
    Record,
    Task,
    finished,
    record_path,
    stored,
)
from unmask.data.containers.writers import WRITE, digest_of, read_back
from unmask.data.images.unreadable import BadImageError, shown
from unmask.data.listing.catalogue import (
    PREPARED,
    PREPARING,
    Catalogue,
    ClassFolders,
    within,
)
from unmask.data.listing.names import Names
from unmask.storage.atomic import replacing, sha256, write_json, write_text

BAD = "bad_images.csv"
UNREAD_LIMIT = 0.05  # of the images, as data.bad_limit in training
Told = Callable[[int], None]  # of so many images more


@dataclass(frozen=True)
class Conversion:
    """found: the source. kind: of the target. tasks: its shards, which `planned` made of the same source.

    damaged: shards that stood there once, and no longer as they were made.
    """

    found: Catalogue
    kind: str
    target: Path
    change: Change
    tasks: list[Task]
    damaged: list[str] = field(default_factory=list)

    def labels(self) -> tuple[Int[np.ndarray, "N"], tuple[str, ...]]:
        """Those beside the images, else those of class folders, for those who read labels from shards."""
        if self.found.labels is not None:
            return self.found.labels, self.found.classes
        split = self.found.splits[:1] == ("train",)
        part = (
            within(self.found.names, "train")
            if split
            else slice(0, len(self.found.names))
        )
        folders = ClassFolders.at(int(split), self.found.names)
        classes = folders.classes(part)
        return np.maximum(folders.labels(classes), -1), classes

    def run(self, workers: int, told: Told) -> list[Record]:
        """Records of all shards. What an earlier run finished is taken over; the first fault ends it.

        A file that cannot be read is none, until there are too many: then it is the disk that cannot.
        """
        labels, classes = self.labels()
        unread: list[tuple[str, str]] = []

        def one(task: Task) -> Record:
            record = finished(self.target, task)
            if record is None and record_path(self.target, task).exists():
                self.damaged.append(task.name)
            if record is None or self._mended(task, record):
                record = self._made(task, labels, classes)
            unread.extend(record.unread().items())
            if len(unread) > ceil(UNREAD_LIMIT * len(self.found.names)):
                (name, why), others = unread[0], len(unread) - 1
                raise ValueError(
                    f"{shown(name)} ({why}) and {others} more of"
                    f" {len(self.found.names)} images cannot be read; is the disk"
                    " there? The same command goes on once they can be read"
                )
            told(len(task.places))
            return record

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(one, task) for task in self.tasks]
            try:
                _wait(futures)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _mended(self, task: Task, record: Record) -> bool:
        """Whether an image that could not be read now can."""
        unread = record.unread()
        for place in task.places.tolist() if unread else ():
            if self.found.names[place] in unread:
                with suppress(BadImageError):
                    stored(self.found, place)
                    return True
        return False

    def _made(
        self, task: Task, labels: Int[np.ndarray, "N"], classes: tuple[str, ...]
    ) -> Record:
        samples, path = (
            Images(self.found, task, self.change, labels),
            self.target / task.name,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == "folder":
            size, whole = _write_files(self.target, samples), ""
        else:
            WRITE[self.kind](path, samples, classes)
            self._compare(path, samples)
            size, whole = path.stat().st_size, sha256(path)
        record = Record(size, whole, samples.rows, samples.digests, samples.bad)
        record.write(record_path(self.target, task))
        return record

    def _compare(self, path: Path, samples: Images) -> None:
        """Raises OSError where an image is not read back as it was written; fills in where it stands."""
        rows = read_back(self.kind, path)
        if self.kind == "raw":
            for row, end in zip(
                samples.rows,
                np.cumsum([row[2] for row in samples.rows]).tolist(),
                strict=True,
            ):
                row[3] = end - row[2]
        else:
            told, wanted = [row.name for row in rows], [row[0] for row in samples.rows]
            if told != wanted:
                raise OSError(
                    f"{path} holds {len(told)} images, not the {len(wanted)} that were"
                    " written; run me again"
                )
            for row, back in zip(samples.rows, rows, strict=True):
                row[3] = back.offset
        with path.open("rb") as file:
            for (name, _, size, offset, _), digest in zip(
                samples.rows, samples.digests, strict=True
            ):
                file.seek(offset)
                if offset < 0 or digest_of(file.read(size)) != digest:
                    raise OSError(
                        f"{path}: {name} is not read back as it was written; check the"
                        " disk, run me again"
                    )

    def finish(self, records: list[Record], facts: dict[str, Any]) -> Contents:
        """Write the index and what is told of it: then the target is whole. Raises OSError where images are missing."""
        contents = self.contents(records)
        if contents.names != self.found.names:
            raise OSError(
                f"{self.target} has {len(contents.names)} of {len(self.found.names)}"
                " images; run me again"
            )
        bad = [row for record in records for row in record.bad]
        write_bad(self.target, bad)
        if self.kind == "litdata":
            self._list_chunks(records)
        write_index(contents, self.target / INDEX, self.kind)
        shards = {
            task.name: record.sha256
            for task, record in zip(self.tasks, records, strict=True)
        }
        write_json(
            self.target / PREPARED, facts | {"bad_images": len(bad), "sha256": shards}
        )
        shutil.rmtree(self.target / PREPARING)
        return contents

    def contents(self, records: list[Record]) -> Contents:
        rows = [row for record in records for row in record.rows]
        counts = [len(record.rows) for record in records]
        owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        shapes = (
            np.array([row[4] for row in rows], dtype=np.int32)
            if self.kind == "raw"
            else None
        )
        digests = np.frombuffer(
            bytes.fromhex("".join(chain.from_iterable(r.digests for r in records))),
            np.uint8,
        )
        files = tuple(_shard(self.target, task.name) for task in self.tasks)
        numbers = np.array([row[1:4] for row in rows], dtype=np.int64).reshape(-1, 3)
        return Contents(
            Names(row[0] for row in rows),
            numbers[:, 0].astype(np.int32),
            numbers[:, 1],
            owners,
            numbers[:, 2],
            files,
            self.labels()[1],
            digests.reshape(-1, 32),
            shapes,
            prepared=True,
        ).in_order()

    def _list_chunks(self, records: list[Record]) -> None:
        """index.json of each folder of chunks."""
        folders: dict[Path, list[dict]] = {}
        for task, record in zip(self.tasks, records, strict=True):
            path = self.target / task.name
            chunk = {
                "chunk_bytes": record.size,
                "chunk_size": len(record.rows),
                "dim": None,
                "filename": path.name,
            }
            folders.setdefault(path.parent, []).append(chunk)
        for folder, chunks in folders.items():
            form = json.loads((folder / "index.json").read_bytes())
            write_text(folder / "index.json", json.dumps(form | {"chunks": chunks}))


def _wait(futures: Iterable[Future]) -> None:
    """Until all are done, or one failed."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


def _shard(target: Path, name: str) -> Shard:
    path = target / name
    status = path.stat() if path.is_file() else None
    return Shard(
        name, status.st_size if status else 0, str(status.st_mtime_ns) if status else ""
    )


def _write_files(target: Path, samples: Images) -> int:
    total = 0
    for sample in samples:
        path = target / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        assert isinstance(sample.content, bytes)
        beside.write_bytes(sample.content)
        beside.replace(path)
        if digest_of(path.read_bytes()) != samples.digests[-1]:
            raise OSError(
                f"{path} is not read back as it was written; check the disk, run me"
                " again"
            )
        total += len(sample.content)
    return total


def write_bad(target: Path, bad: list[list[str]]) -> None:
    """Images that could not be decoded, by name; they were copied as they are."""
    (target / BAD).unlink(missing_ok=True)
    if bad:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["image", "reason"], *bad])
        with replacing(target / BAD) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def read_bad(target: Path) -> dict[str, str]:
    """Reasons by names."""
    if not (target / BAD).exists():
        return {}
    with (target / BAD).open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        return dict(list(csv.reader(file))[1:])
