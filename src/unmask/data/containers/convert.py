"""Conversion of a source into another container, in parallel, shard by shard.

Each shard is read back and compared with what was written.
"""

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

from unmask.data.containers.contents import Contents
from unmask.data.containers.converted_images import ConvertedImages, read_source
from unmask.data.containers.index import INDEX_FILE, write_index
from unmask.data.containers.roots import Shard
from unmask.data.containers.shard_records import (
    LABEL,
    NAME,
    OFFSET,
    SHAPE,
    SIZE,
    ShardRecord,
    load_finished_record,
    record_path,
)
from unmask.data.containers.shard_tasks import ShardTask
from unmask.data.containers.transcode import Transcode
from unmask.data.containers.writers import WRITERS, content_digest, read_back
from unmask.data.images.unreadable import BadImageError, printable
from unmask.data.listing.catalogue import (
    PREPARED_FILE,
    PREPARING_FOLDER,
    Catalogue,
    ClassFolders,
    folder_slice,
)
from unmask.data.listing.names import Names
from unmask.storage.atomic import atomic_write, sha256, write_json, write_text

BAD_IMAGES_FILE = "bad_images.csv"

# The share of the images that may be unreadable, as data.bad_limit in training.
MAX_UNREAD_SHARE = 0.05

# Called with the number of images that are done since the last call.
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Conversion:
    """Convert a source into a container at `target`.

    kind: of the target. tasks: its shards, as `plan_shards` made them of the catalogue.
    damaged: names of shards that an earlier run finished but that have changed since.
    """

    catalogue: Catalogue
    kind: str
    target: Path
    transcode: Transcode
    tasks: list[ShardTask]
    damaged: list[str] = field(default_factory=list)

    def labels(self) -> tuple[Int[np.ndarray, "N"], tuple[str, ...]]:
        """Return (labels, class names) to store: those of the source's shards, if any.

        Otherwise those of class folders, for other readers of the target.
        """
        catalogue = self.catalogue
        if catalogue.labels is not None:
            return catalogue.labels, catalogue.classes
        has_train = catalogue.splits[:1] == ("train",)
        train = slice(0, len(catalogue.names))
        if has_train:
            train = folder_slice(catalogue.names, "train")
        folders = ClassFolders.from_names(int(has_train), catalogue.names)
        classes = folders.class_names(train)
        # other readers know only -1 as no label
        return np.maximum(folders.labels(classes), -1), classes

    def run(self, workers: int, on_progress: OnProgress) -> list[ShardRecord]:
        """Write all shards in threads, and return their records.

        Shards that an earlier run finished are kept. The first error ends the run. A
        file that cannot be read is not an error, until there are too many: then the
        disk is at fault, and ValueError is raised.
        """
        labels, classes = self.labels()
        unread: list[tuple[str, str]] = []

        def run_task(task: ShardTask) -> ShardRecord:
            record = self._finished_record(task)
            if record is None:
                record = self._write_shard(task, labels, classes)
            unread.extend(record.unread_reasons().items())
            self._limit_unread(unread)
            on_progress(len(task.indices))
            return record

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(run_task, task) for task in self.tasks]
            try:
                _wait_for_all(futures)
            # an interrupt of the keyboard, too, must not wait for queued shards
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _finished_record(self, task: ShardTask) -> ShardRecord | None:
        """Return the record of a shard that need not be written again."""
        record = load_finished_record(self.target, task)
        if record is None:
            if record_path(self.target, task).exists():
                self.damaged.append(task.name)
            return None
        return None if self._can_complete(task, record) else record

    def _can_complete(self, task: ShardTask, record: ShardRecord) -> bool:
        """Say whether an image of the shard that could not be read can be read now."""
        unread = record.unread_reasons()
        if not unread:
            return False
        for i in task.indices.tolist():
            if self.catalogue.names[i] in unread:
                with suppress(BadImageError):
                    read_source(self.catalogue, i)
                    return True
        return False

    def _limit_unread(self, unread: list[tuple[str, str]]) -> None:
        num_images = len(self.catalogue.names)
        if len(unread) > ceil(MAX_UNREAD_SHARE * num_images):
            name, reason = unread[0]
            raise ValueError(
                f"{printable(name)} ({reason}) and {len(unread) - 1} more of"
                f" {num_images} images cannot be read; is the disk there? The same"
                " command continues once they can be read"
            )

    def _write_shard(
        self, task: ShardTask, labels: Int[np.ndarray, "N"], classes: tuple[str, ...]
    ) -> ShardRecord:
        images = ConvertedImages(self.catalogue, task, self.transcode, labels)
        path = self.target / task.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == "folder":
            size = _write_files(self.target, images)
            digest = ""
        else:
            WRITERS[self.kind](path, images, classes)
            self._set_offsets(path, images)
            _require_same_bytes(path, images)
            size = path.stat().st_size
            digest = sha256(path)
        record = ShardRecord(size, digest, images.rows, images.digests, images.bad)
        record.write(record_path(self.target, task))
        return record

    def _set_offsets(self, path: Path, images: ConvertedImages) -> None:
        """Fill in the offset of each image in the shard.

        Raises OSError where other images than the written ones are read back.
        """
        if self.kind == "raw":
            offset = 0
            for row in images.rows:
                row[OFFSET] = offset
                offset += row[SIZE]
            return
        entries = read_back(self.kind, path)
        written = [row[NAME] for row in images.rows]
        if [entry.name for entry in entries] != written:
            raise OSError(
                f"{path} holds {len(entries)} images, not the {len(written)} that were"
                " written; run the same command again"
            )
        for row, entry in zip(images.rows, entries, strict=True):
            row[OFFSET] = entry.offset

    def finish(self, records: list[ShardRecord], facts: dict[str, Any]) -> Contents:
        """Write the index, the list of bad images and `facts`: the target is complete.

        Raises OSError where images are missing.
        """
        contents = self.build_contents(records)
        if contents.names != self.catalogue.names:
            raise OSError(
                f"{self.target} has {len(contents.names)} of"
                f" {len(self.catalogue.names)} images; run the same command again"
            )
        bad = [row for record in records for row in record.bad]
        write_bad_images(self.target, bad)
        if self.kind == "litdata":
            self._list_chunks(records)
        write_index(contents, self.target / INDEX_FILE, self.kind)
        digests = {
            task.name: record.sha256
            for task, record in zip(self.tasks, records, strict=True)
        }
        facts = facts | {"bad_images": len(bad), "sha256": digests}
        # after all other files: from here on the target counts as finished
        write_json(self.target / PREPARED_FILE, facts)
        shutil.rmtree(self.target / PREPARING_FOLDER)
        return contents

    def build_contents(self, records: list[ShardRecord]) -> Contents:
        """Join the records of all shards, sorted by name."""
        rows = [row for record in records for row in record.rows]
        counts = [len(record.rows) for record in records]
        numbers = np.array(
            [(row[LABEL], row[SIZE], row[OFFSET]) for row in rows], dtype=np.int64
        )
        # reshaped, so that an empty list also unpacks into three columns
        labels, sizes, offsets = numbers.reshape(-1, 3).T
        digests = "".join(chain.from_iterable(record.digests for record in records))
        shapes = None
        if self.kind == "raw":
            shapes = np.array([row[SHAPE] for row in rows], dtype=np.int32)
        return Contents(
            Names(row[NAME] for row in rows),
            labels.astype(np.int32),
            sizes,
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            offsets,
            tuple(_describe_shard(self.target, task.name) for task in self.tasks),
            self.labels()[1],
            np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(-1, 32),
            shapes,
            is_prepared=True,
        ).sorted_by_name()

    def _list_chunks(self, records: list[ShardRecord]) -> None:
        """Write the chunks into index.json of each folder, for LitData's readers."""
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
            index = json.loads((folder / "index.json").read_bytes())
            index["chunks"] = chunks
            write_text(folder / "index.json", json.dumps(index))


def _wait_for_all(futures: Iterable[Future]) -> None:
    """Wait until all are done; raise the error of the first that fails."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


def _describe_shard(target: Path, name: str) -> Shard:
    path = target / name
    # a shard of a folder of files is no file itself
    if not path.is_file():
        return Shard(name, 0, "")
    status = path.stat()
    return Shard(name, status.st_size, str(status.st_mtime_ns))


def _require_same_bytes(path: Path, images: ConvertedImages) -> None:
    """Raise OSError where an image is not in the shard as it was written."""
    with path.open("rb") as file:
        for row, digest in zip(images.rows, images.digests, strict=True):
            offset = row[OFFSET]
            # a negative offset marks a compressed row, which no plain read can check:
            # it is an error
            if offset >= 0:
                file.seek(offset)
            if offset < 0 or content_digest(file.read(row[SIZE])) != digest:
                raise OSError(
                    f"{path}: {row[NAME]} is not read back as it was written; check"
                    " the disk, and run the same command again"
                )


def _write_files(target: Path, images: ConvertedImages) -> int:
    """Write images as files of their names, and return their bytes together."""
    total = 0
    for sample in images:
        path = target / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        assert isinstance(sample.content, bytes)
        temporary.write_bytes(sample.content)
        temporary.replace(path)
        if content_digest(path.read_bytes()) != images.digests[-1]:
            raise OSError(
                f"{path} is not read back as it was written; check the disk, and run"
                " the same command again"
            )
        total += len(sample.content)
    return total


def write_bad_images(target: Path, bad: list[list[str]]) -> None:
    """Write [name, reason] of each bad image; without any, remove an older file."""
    path = target / BAD_IMAGES_FILE
    path.unlink(missing_ok=True)
    if bad:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["image", "reason"], *bad])
        with atomic_write(path) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def read_bad_images(target: Path) -> dict[str, str]:
    """Read the reasons of bad images by name; empty where there is no file."""
    path = target / BAD_IMAGES_FILE
    if not path.exists():
        return {}
    # surrogateescape: names of files may be any bytes
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    return dict(rows[1:])
