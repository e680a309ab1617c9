"""Files that a kill or a full disk leaves complete: the old content or the new one.

A file is written under a temporary name in the same folder, flushed to the disk, then
renamed.
"""

import csv
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unmask.storage.remedies import explain


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends without an error.

    After an error it is removed, and an older file at `path` stays. Raises OSError
    where the file cannot be written.
    """
    # Not named by the process id: containers that share a disk may have equal ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            # A rename may reach the disk before the content does: after a power cut the
            # file would be empty.
            os.fsync(file.fileno())
            inode = os.fstat(file.fileno()).st_ino
        _rename(temporary, path, inode)
    except OSError as error:
        # a path that cannot be opened cannot be removed
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Python does not name the file when the disk is full
        raise OSError(error.errno, f"cannot write {path}: {explain(error)}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _rename(temporary: Path, path: Path, inode: int) -> None:
    """Rename, and ignore an error if the rename was made nevertheless.

    A network file system that loses the server's answer repeats the request, and is
    told that there is no such file: its first request has renamed it.
    """
    try:
        temporary.replace(path)
    except OSError as error:
        may_be_repeated = error.errno in (errno.ENOENT, errno.ESTALE)
        if may_be_repeated and path.exists() and path.stat().st_ino == inode:
            return
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


def encode_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Return lines of CSV; names that are not UTF-8 keep their bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_csv_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically; names that are not UTF-8 keep their bytes."""
    with atomic_write(path) as file:
        file.write(encode_csv(rows))


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_note(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; an empty one where it is missing or damaged.

    For what is good to know, and no reason to fail.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
