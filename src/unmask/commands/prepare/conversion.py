"""Conversion of a source into another container, in parallel, shard by shard.

Each shard is read back and compared with what was written.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unmask.commands.prepare.records import (
    UNREAD_PREFIX,
    ShardRecord,
    StoredImage,
    write_bad_images,
)
from unmask.commands.prepare.shard_tasks import ShardTask
from unmask.commands.prepare.transcode import Transcode
from unmask.commands.prepare.writers import WRITERS, Sample, content_digest, read_back
from unmask.data.containers.contents import (
    BYTES_CODE,
    Contents,
    join_shards,
    type_code,
)
from unmask.data.containers.index import INDEX_FILE, write_index
from unmask.data.containers.roots import Shard
from unmask.data.images.unreadable import (
    BadImageError,
    printable,
    read_content,
    short_reason,
)
from unmask.data.listing.catalogue import (
    PREPARED_FILE,
    PREPARING_FOLDER,
    Catalogue,
    ClassFolders,
)
from unmask.data.listing.names import name_at
from unmask.storage.atomic import sha256, write_json, write_text

# The share of the images that may be unreadable, as data.bad_limit in training.
MAX_UNREAD_SHARE = 0.05

READ_BACK_ERROR = (
    "is not read back as it was written; check the disk, and run the same command again"
)

# The reason of a file without a byte: nothing of it can be compared.
EMPTY = "it is empty"

# Called with the number of images that are done since the last call.
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Conversion:
    """Convert a source into a container at `target`.

    kind: of the target. tasks: its shards, as `plan_shards` made them of the catalogue.
    earlier: records of shards that stand already, by name. damaged: names of those
    that have changed since.
    """

    catalogue: Catalogue
    kind: str
    target: Path
    transcode: Transcode
    tasks: list[ShardTask]
    earlier: dict[str, ShardRecord]
    damaged: list[str] = field(default_factory=list)

    @cached_property
    def labels_and_classes(self) -> tuple[Int[np.ndarray, "N"], tuple[str, ...]]:
        """Return the labels to store, and the names of the classes.

        They are those of the source's shards, if it has any; otherwise those of class
        folders, for other readers of the target.
        """
        catalogue = self.catalogue
        if catalogue.labels is not None:
            return catalogue.labels, catalogue.classes
        has_train = catalogue.chosen_splits.train is not None
        folders = ClassFolders.from_names(int(has_train), catalogue.names)
        classes = folders.class_names(catalogue.train_slice)
        # other readers know only -1 as no label
        return np.maximum(folders.labels(classes), -1), classes

    def run(self, workers: int, on_progress: OnProgress) -> list[ShardRecord]:
        """Write all shards in threads, and return their records.

        Shards that an earlier call finished are kept. The first error ends the run. A
        file that cannot be read is not an error, until there are too many: then the
        disk is at fault, and ValueError is raised.
        """
        unread: list[StoredImage] = []

        def run_task(task: ShardTask) -> ShardRecord:
            record = self._kept_record(task)
            if record is None:
                record = self._write_shard(task)
            unread.extend(image for image in record.images if image.is_unread)
            self._limit_unread(unread)
            on_progress(len(task.indices))
            return record

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(run_task, task) for task in self.tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            # an interrupt of the keyboard, too, must not wait for queued shards
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _kept_record(self, task: ShardTask) -> ShardRecord | None:
        """Return the record of a shard that need not be written again."""
        record = self.earlier.get(task.name)
        # what could not be read may be readable now
        if record is None or any(image.is_unread for image in record.images):
            return None
        if record.is_intact(self.target, task):
            return record
        self.damaged.append(task.name)
        return None

    def _limit_unread(self, unread: list[StoredImage]) -> None:
        num_images = len(self.catalogue.names)
        if len(unread) > ceil(MAX_UNREAD_SHARE * num_images):
            reason = unread[0].bad.removeprefix(UNREAD_PREFIX)
            raise ValueError(
                f"{printable(unread[0].name)} ({reason}) and {len(unread) - 1} more of"
                f" {num_images} images cannot be read; is the disk there? The same"
                " command continues once they can be read"
            )

    def _write_shard(self, task: ShardTask) -> ShardRecord:
        images: list[StoredImage] = []
        samples = self._convert_images(task, images)
        if self.kind == "folder":
            _write_files(self.target, samples)
            record = ShardRecord("", images)
        else:
            path = self.target / task.name
            path.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[self.kind](path, samples, self.labels_and_classes[1])
            images = _locate_images(self.kind, path, images)
            record = ShardRecord(sha256(path), images)
        record.write(self.target, task)
        return record

    def _convert_images(
        self, task: ShardTask, images: list[StoredImage]
    ) -> Iterator[Sample]:
        """Yield the images of a shard as they are stored, and note them in `images`."""
        labels, _ = self.labels_and_classes
        for i in task.indices.tolist():
            name = name_at(self.catalogue.names, i)
            label = int(labels[i])
            content, bad = self._convert(i, name)
            if isinstance(content, bytes):
                size, shape = len(content), None
            else:
                size = content.nbytes
                shape = [*content.shape, type_code(content.dtype)]
            digest = content_digest(content)
            # the offset is known once the shard is written
            images.append(StoredImage(name, label, size, 0, shape, digest, bad))
            yield Sample(name, label, content)

    def _convert(self, i: int, name: str) -> tuple[bytes | np.ndarray, str]:
        """Return what is stored of an image, and why it is bad if it is."""
        content: bytes | np.ndarray = b""
        bad = ""
        try:
            content = read_content(self.catalogue.store, i)
        except BadImageError as error:
            bad = f"{UNREAD_PREFIX}{error.reason}"
        if isinstance(content, bytes) and not content and not bad:
            bad = EMPTY
        if not bad:
            try:
                return self.transcode(content, name), ""
            # Pillow raises anything for a bad image
            except Exception as error:
                bad = short_reason(error)
        if self.transcode.channels is not None:
            # there are no raw pixels; training takes an empty array for a bad image
            content = np.zeros((0, 0, self.transcode.channels), np.uint8)
        return content, bad

    def finish(self, records: list[ShardRecord], facts: dict[str, Any]) -> None:
        """Write the index, the list of bad images and `facts`: the target is complete.

        Raises OSError where images are missing.
        """
        contents = self._join(records)
        if not contents.names.equals(self.catalogue.names):
            raise OSError(
                f"{self.target} has {len(contents.names)} of"
                f" {len(self.catalogue.names)} images; run the same command again"
            )
        bad = [image for record in records for image in record.images if image.bad]
        write_bad_images(self.target, bad)
        made = dict(zip((task.name for task in self.tasks), records, strict=True))
        if self.kind == "litdata":
            _list_chunks(self.target, made)
        write_index(contents, self.target / INDEX_FILE, self.kind)
        digests = {name: record.sha256 for name, record in made.items()}
        facts = facts | {"bad_images": len(bad), "sha256": digests}
        # after all other files: from here on the target counts as finished
        write_json(self.target / PREPARED_FILE, facts)
        shutil.rmtree(self.target / PREPARING_FOLDER)

    def _join(self, records: list[ShardRecord]) -> Contents:
        _, classes = self.labels_and_classes
        parts = []
        for task, record in zip(self.tasks, records, strict=True):
            images = record.images
            part = Contents.of_shard(
                _describe_shard(self.target, task.name),
                [image.name for image in images],
                [(image.label, image.size, image.offset) for image in images],
                classes,
            )
            digests = bytes.fromhex("".join(image.sha256 for image in images))
            part = replace(
                part,
                digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
                is_prepared=True,
            )
            if self.kind == "raw":
                # records of earlier versions are of bytes, and say no type
                shapes = [(*(image.shape or ()), BYTES_CODE)[:4] for image in images]
                table = np.array(shapes, dtype=np.int32).reshape(-1, 4)
                part = replace(part, shapes=table[:, :3], dtypes=table[:, 3])
            parts.append(part)
        return join_shards(parts)


def _list_chunks(target: Path, made: dict[str, ShardRecord]) -> None:
    """Write the chunks into index.json of each folder, for LitData's readers."""
    folders: dict[Path, list[dict]] = {}
    for name, record in made.items():
        path = target / name
        chunk = {
            "chunk_bytes": path.stat().st_size,
            "chunk_size": len(record.images),
            "dim": None,
            "filename": path.name,
        }
        folders.setdefault(path.parent, []).append(chunk)
    for folder, chunks in folders.items():
        index = json.loads((folder / "index.json").read_bytes())
        index["chunks"] = chunks
        write_text(folder / "index.json", json.dumps(index))


def _describe_shard(target: Path, name: str) -> Shard:
    path = target / name
    # a shard of a folder of files is no file itself
    if not path.is_file():
        return Shard(name, 0, "")
    status = path.stat()
    return Shard(name, status.st_size, str(status.st_mtime_ns))


def _locate_images(
    kind: str, path: Path, images: list[StoredImage]
) -> list[StoredImage]:
    """Read a shard back, and add the offset of each image.

    Raises OSError where it holds other images than the written ones.
    """
    if kind == "raw":
        offsets = [0, *accumulate(image.size for image in images)][:-1]
    else:
        entries = read_back(kind, path)
        offsets = [entry.offset for entry in entries]
        if [entry.name for entry in entries] != [image.name for image in images]:
            raise OSError(
                f"{path} holds {len(entries)} images, not the {len(images)} that were"
                " written; run the same command again"
            )
    with path.open("rb") as file:
        for image, offset in zip(images, offsets, strict=True):
            # A negative offset marks a compressed row, which no plain read can check:
            # it is an error.
            file.seek(max(0, offset))
            if offset < 0 or content_digest(file.read(image.size)) != image.sha256:
                raise OSError(f"{path}: {image.name} {READ_BACK_ERROR}")
    return [
        image._replace(offset=offset)
        for image, offset in zip(images, offsets, strict=True)
    ]


def _write_files(target: Path, samples: Iterable[Sample]) -> None:
    """Write images as files of their names."""
    for name, _, content in samples:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        assert isinstance(content, bytes)
        temporary.write_bytes(content)
        temporary.replace(path)
        if path.read_bytes() != content:
            raise OSError(f"{path} {READ_BACK_ERROR}")
