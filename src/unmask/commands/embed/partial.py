"""Features on their way: rows that a kill leaves complete up to the last save.

Beside the file that is asked for, the folder NAME.partial holds

- job.json: which weights, images and settings the rows belong to;
- rows: the bytes of a .npy file, whose header is written at the end;
- skipped.jsonl: the images that could not be read;
- progress.json: how many images and rows count; whatever follows is cut off.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Shaped

from unmask.config.checks import ConfigError
from unmask.storage.atomic import read_note, write_json
from unmask.storage.metrics_log import append_row, read_rows
from unmask.storage.remedies import explain

# length of the .npy header of any array that fits a disk
HEADER_BYTES = 128
MIN_FREE_SHARE = 1.02  # of the bytes still to be written: names need some, too


class RowForm(NamedTuple):
    """The form of an image's features: one vector, or one for each patch."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class PartialRows:
    """Append rows to a folder beside `out`, and go on where the last one stopped."""

    def __init__(self, out: Path, job: dict[str, Any], form: RowForm) -> None:
        self.folder = partial_folder(out)
        self.job = job
        self.form = form
        self.images = 0
        self.rows = 0
        self.skipped: dict[int, str] = {}
        self._file: BinaryIO | None = None
        self._unsaved: list[tuple[int, str]] = []

    def __enter__(self) -> "PartialRows":
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / "job.json", self.job)
        progress = read_note(self.folder / "progress.json")
        self.images, self.rows = progress.get("images", 0), progress.get("rows", 0)
        path = self.folder / "rows"
        end = HEADER_BYTES + self.rows * self.form.num_bytes
        # progress is written after the rows it counts: fewer are a damaged disk's
        if not path.exists() or path.stat().st_size < end:
            self.images = self.rows = 0
            end = HEADER_BYTES
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(end)
        self._file.seek(end)
        for row in read_rows(self.folder / "skipped.jsonl"):
            if row["image"] < self.images:
                self.skipped[row["image"]] = row["reason"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()
        if not self.rows:
            shutil.rmtree(self.folder)

    def append(
        self, rows: Shaped[np.ndarray, "R *form"], images: int, skipped: dict[int, str]
    ) -> None:
        """Add the rows of a batch of so many images; skipped: those without a row."""
        assert self._file is not None
        with self._explained():
            self._file.write(np.ascontiguousarray(rows, self.form.dtype).data)
        self.rows += len(rows)
        self.images += images
        self.skipped |= skipped
        self._unsaved += skipped.items()

    def save(self) -> None:
        """Make what was appended outlive a kill, and a power cut."""
        assert self._file is not None
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
        for image, reason in self._unsaved:
            append_row(
                self.folder / "skipped.jsonl", {"image": image, "reason": reason}
            )
        self._unsaved.clear()
        progress = {"images": self.images, "rows": self.rows}
        write_json(self.folder / "progress.json", progress)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what cannot be written, and what then."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {self.folder}: {explain(error)}; then type the same"
                " command again: it goes on",
            ) from error

    def read(self, start: int, count: int) -> Shaped[np.ndarray, "R *form"]:
        """Return some rows: read, since pages of a map would count as memory."""
        offset = HEADER_BYTES + start * self.form.num_bytes
        values = count * int(np.prod(self.form.shape))
        path = self.folder / "rows"
        flat = np.fromfile(path, self.form.dtype, values, offset=offset)
        return flat.reshape(count, *self.form.shape)

    def write_header(self) -> Path:
        """Make a .npy file of the rows; return its path."""
        assert self._file is not None
        header = io.BytesIO()
        fields: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(self.form.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.form.shape),
        }
        np.lib.format.write_array_header_1_0(header, fields)
        assert len(header.getvalue()) == HEADER_BYTES
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.folder / "rows"


def as_dtype(
    values: Shaped[np.ndarray, "R *form"], dtype: np.dtype
) -> Shaped[np.ndarray, "R *form"]:
    """Round features to a type; FloatingPointError where it holds none so large."""
    largest = np.abs(values).max(initial=0)
    if largest > np.finfo(dtype).max:
        raise FloatingPointError(
            f"dtype={dtype}: features reach {largest:g}, and it holds no more than"
            f" {np.finfo(dtype).max:g}; give dtype=float32"
        )
    return values.astype(dtype)


def partial_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def begun_job(folder: Path) -> dict[str, Any]:
    """Return which job the rows of a partial folder belong to; empty where none."""
    return read_note(folder / "job.json")


def check_partial(out: Path, job: dict[str, Any], overwrite: bool) -> None:
    """Raise ConfigError where other features have been begun, or remove them."""
    folder = partial_folder(out)
    begun = begun_job(folder)
    if not begun and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"out={out}: its rows would go to {folder}, which is something else; move"
            " that away, or give another place"
        )
    if not begun or begun == job:
        return
    if not overwrite:
        raise ConfigError(
            f"out={out}: {folder} was begun with {describe_difference(begun, job)};"
            " type that command again, remove the folder, or add overwrite=true"
        )
    shutil.rmtree(folder)


def describe_difference(other: dict[str, Any], job: dict[str, Any]) -> str:
    """Say what differs between two jobs, in words."""
    for key, word in (("weights", "other weights"), ("images", "other images")):
        if other.get(key) != job[key]:
            return word
    settings = other.get("settings", {})
    changed = [
        f"{key}={settings.get(key)}"
        for key, value in job["settings"].items()
        if settings.get(key) != value
    ]
    return ", ".join(changed) or "another version"


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Keep other processes from writing the same features meanwhile."""
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not path.exists():
            raise OSError(f"out={out}: nothing can be written in its folder") from None
        raise ValueError(
            f"out={out}: another process is writing it; wait for it, or give another"
            " place"
        ) from None
    try:
        yield
    finally:
        # nobody waits for it
        path.unlink(missing_ok=True)
        lock.release()


def require_space(out: Path, missing_bytes: int) -> None:
    """Raise ValueError where the disk has less than what is still to be written."""
    free = shutil.disk_usage(out.absolute().parent).free
    if free < missing_bytes * MIN_FREE_SHARE:
        raise ValueError(
            f"out={out} needs {missing_bytes / 2**30:.1f} GiB more and"
            f" {free / 2**30:.1f} GiB are free; give another disk, dtype=float16, a"
            " smaller count, or pool=cls in place of patches"
        )
