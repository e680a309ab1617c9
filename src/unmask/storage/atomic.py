"""Files that a kill or a full disk leaves whole: written beside their place, flushed, then renamed."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its place, on the disk, when the block ends well, and vanishes when it does not."""
    # not the process's number: containers that share a disk have the same ones
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            # a rename may reach the disk before the content does: after a power cut the
            # file would be empty
            os.fsync(file.fileno())
            inode = os.fstat(file.fileno()).st_ino
        _rename(beside, path, inode)
    except OSError as error:
        beside.unlink(missing_ok=True)
        # of a full disk Python names no file
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror}; free or unlock it"
        ) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _rename(beside: Path, path: Path, inode: int) -> None:
    """A network file system that lost its own answer asks again, and is told of a rename it made: no such file."""
    try:
        beside.replace(path)
    except OSError as error:
        if (
            error.errno not in (errno.ENOENT, errno.ESTALE)
            or not path.exists()
            or path.stat().st_ino != inode
        ):
            raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
