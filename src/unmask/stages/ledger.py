"""The ledger: runs/<stage>/<fingerprint>/ holds everything of one stage.

result.json appears last, and atomically: where it exists, the stage is done.
"""

import fcntl
import hashlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from unmask.config.secrets import redact
from unmask.stages.fingerprint import StageSpec
from unmask.storage.atomic import write_json, write_text
from unmask.storage.remedies import explain

POLL_SECONDS = 0.2  # between looks at a lock
# what every result.json has
REQUIRED_KEYS = {"metrics", "title", "fingerprint", "seconds", "images"}


class LedgerError(RuntimeError):
    """The ledger cannot be used: not writable, or locked by another process."""


class StageFolder:
    """The folder of one stage; with result.json in it the stage is done.

    That holds whatever exit code the process ended with.
    """

    def __init__(self, runs_dir: str | Path, spec: StageSpec) -> None:
        self.spec = spec
        self.path = Path(runs_dir) / spec.kind / spec.fingerprint

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def result(self) -> dict[str, Any] | None:
        """Return the finished stage's result, or None."""
        return read_result(self.path)

    def create(self) -> None:
        """Make the folder; LedgerError where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # existing folders may be read-only, and disks full
            probe = self.path / f".probe.{os.getpid()}"
            probe.write_text("")
            # the stage's owner may have removed it as a leftover
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(
                f"cannot write in {self.path}: {explain(error)}; or choose another"
                " folder for the ledger: runs_dir=/path/to/a/writable/folder"
            ) from None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved config, and what the fingerprint was made of.

        config.json has the config again, since reading YAML takes milliseconds: too
        long for lists of a thousand stages. It counts where `of` is the YAML's hash.
        """
        content = {"science": self.spec.science, "config": config}
        text = yaml.safe_dump(content, sort_keys=False)
        copy = {"of": text_hash(text), "config": config}
        write_text(self.path / "config.json", json.dumps(copy))
        write_text(self.path / "config.yaml", text)

    @contextmanager
    def hold_lock(
        self,
        wait: bool,
        report: Callable[[str], object] = print,
        while_waiting: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """Hold the folder's lock; the lock of a killed process frees itself.

        report: takes the message that says who holds it; while_waiting: is called
        between looks at the lock. Raises LedgerError if another process holds it and
        wait is False.
        """
        lock = FileLock(self.path / "lock")
        if not self._try_lock(lock):
            if not wait:
                raise LedgerError(
                    f"{self.path} is owned by {self._describe_owner()}; wait for it,"
                    " stop it, or drop wait=false"
                )
            report(
                f"{self.spec.title}: waiting for {self._describe_owner()}, which works"
                f" on {self.path}"
            )
            while not self._try_lock(lock):
                while_waiting()
        try:
            self._remove_leftovers()
            owner = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": utc_now(),
            }
            write_json(self.path / "owner.json", owner)
            yield
        finally:
            lock.release()

    def _try_lock(self, lock: FileLock) -> bool:
        try:
            lock.acquire(timeout=POLL_SECONDS)
        except Timeout:
            return False
        except OSError as error:
            raise LedgerError(
                f"cannot lock {self.path}: {explain(error)}; or choose another folder"
                " for the ledger: runs_dir=/path/to/another/folder"
            ) from None
        return True

    def _remove_leftovers(self) -> None:
        """Remove files that a killed process left half-written.

        Checkpoints look after their own folder.
        """
        for pattern in (".*.tmp", ".probe.*"):
            for path in list(self.path.glob(pattern)):
                path.unlink(missing_ok=True)

    def finish(
        self, metrics: dict[str, float], facts: dict[str, Any]
    ) -> dict[str, Any]:
        """Write result.json: from here on the stage is done."""
        spec = self.spec
        result = {
            "stage": spec.kind,
            "title": spec.title,
            "start": spec.start,
            "fingerprint": spec.fingerprint,
            "parent": spec.parent.fingerprint if spec.parent else None,
            "metrics": metrics,
            **facts,
            "finished": utc_now(),
        }
        # of attempts before, and of how far this one was
        for pattern in ("error*.txt", "stacks*.txt", "progress.json"):
            for path in list(self.path.glob(pattern)):
                path.unlink(missing_ok=True)
        write_json(self.path / "result.json", result)
        return result

    def record_failure(self, error: BaseException, name: str = "error.txt") -> None:
        """Write the error and its traceback into the stage's folder."""
        text = redact("".join(traceback.format_exception(error)))
        # a full disk must not hide the error that is being reported
        with suppress(OSError):
            write_text(self.path / name, f"{utc_now()}\n{text}")

    def _describe_owner(self) -> str:
        try:
            owner = json.loads((self.path / "owner.json").read_text())
            return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
        # the owner may not have written it yet
        except (OSError, json.JSONDecodeError, KeyError):
            return "another process"


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read result.json in a stage's folder, None where there is none.

    Raises LedgerError for a damaged one.
    """
    try:
        result = json.loads((folder / "result.json").read_text())
        missing = REQUIRED_KEYS - result.keys()
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} missing")
        _check_values(result)
        return result
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LedgerError(
            f"{folder}/result.json cannot be read: {explain(error)}; or choose another"
            " folder for the ledger: runs_dir=/path/to/another/folder"
        ) from None
    # AttributeError: JSON, but not an object
    except (ValueError, AttributeError) as error:
        raise LedgerError(
            f"{folder}/result.json cannot be read ({error}); remove it to redo the"
            " stage"
        ) from None


def _check_values(result: dict[str, Any]) -> None:
    """Raise ValueError for values that no stage can have written."""
    if not isinstance(result["metrics"], dict):
        raise ValueError(f"metrics are {result['metrics']!r}")
    numbers = {
        "seconds": result["seconds"],
        "images": result["images"],
        **result["metrics"],
    }
    for name, value in numbers.items():
        if not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r}, not a number")
        if "accuracy" in name and not 0 <= value <= 100:
            raise ValueError(f"{name} is {value}, not within 0 to 100")


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a lock; where nobody can tell, nobody does.

    A shared lock, held for an instant, asks: it needs no right to write.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        # closing it lets the lock go
        os.close(descriptor)
    return False


def utc_now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
