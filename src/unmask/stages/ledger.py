"""The ledger: runs/<stage>/<fingerprint>/ holds everything of one stage; result.json appears last and atomically."""

import json
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from unmask.config.secrets import masked
from unmask.stages.fingerprint import StageSpec
from unmask.storage.atomic import write_json, write_text

POLL = 0.2  # seconds between looks at a lock


class LedgerError(RuntimeError):
    """The ledger cannot be used: not writable, or owned by another process."""


class StageFolder:
    """One stage's folder. Where result.json stands the stage is done, whatever any exit code said."""

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
        """The finished stage's result, or None."""
        return read_result(self.path)

    def open(self) -> None:
        """Make the folder. Raises LedgerError where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.write_text("")
            probe.unlink(missing_ok=True)  # an owner may have swept it
        except OSError as error:
            raise LedgerError(
                f"cannot write in {self.path}: {error.strerror or error}; free or"
                " unlock it, or choose another place for the ledger:"
                " runs_dir=/path/to/a/writable/folder"
            ) from None

    def keep_config(self, config: dict[str, Any]) -> None:
        """The resolved config and what the fingerprint was made of, by the owner."""
        text = yaml.safe_dump(
            {"science": self.spec.science, "config": config}, sort_keys=False
        )
        write_text(self.path / "config.yaml", text)

    @contextmanager
    def owned(
        self, wait: bool, say: Any = print, waiting: Any = lambda: None
    ) -> Iterator[None]:
        """Hold the folder's lock; a killed owner's lock frees itself. `waiting` is called again and again meanwhile.

        Raises LedgerError if another process holds it and wait is False.
        """
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=POLL)
        except Timeout:
            if not wait:
                raise LedgerError(
                    f"{self.path} is owned by {self._owner()}; wait for it, stop it, or"
                    " drop wait=false"
                ) from None
            say(
                f"{self.spec.title}: waiting for {self._owner()}, which works on"
                f" {self.path}"
            )
            while not lock.is_locked:
                waiting()
                with suppress(Timeout):
                    lock.acquire(timeout=POLL)
        try:
            self._sweep()
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
            write_json(self.path / "owner.json", owner)
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what kills left half-written here; checkpoints see to their own folder."""
        for left in [*self.path.glob(".*.tmp"), *self.path.glob(".probe.*")]:
            left.unlink(missing_ok=True)

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
            "finished": now(),
        }
        for left in [*self.path.glob("error*.txt"), *self.path.glob("stacks*.txt")]:
            left.unlink(missing_ok=True)
        write_json(self.path / "result.json", result)
        return result

    def fail(self, error: BaseException, name: str = "error.txt") -> None:
        """Leave the error where the next reader looks."""
        text = masked("".join(traceback.format_exception(error)))
        try:
            write_text(self.path / name, f"{now()}\n{text}")
        except OSError:
            return  # a full disk must not hide the error that is being reported

    def _owner(self) -> str:
        try:
            owner = json.loads((self.path / "owner.json").read_text())
            return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
        except (OSError, json.JSONDecodeError, KeyError):
            return "another process"


def read_result(folder: Path) -> dict[str, Any] | None:
    """What result.json in a stage's folder says, None where there is none. Raises LedgerError for a damaged one."""
    try:
        result = json.loads((folder / "result.json").read_text())
        if (
            not {"metrics", "title", "fingerprint", "seconds", "images"}
            <= result.keys()
        ):
            raise ValueError("parts are missing")
        if fault := _impossible(result):
            raise ValueError(fault)
        return result
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise LedgerError(
            f"{folder}/result.json cannot be read ({error}); remove it to redo the"
            " stage"
        ) from None


def _impossible(result: dict[str, Any]) -> str | None:
    """What no stage can have written, in words."""
    if not isinstance(result["metrics"], dict):
        return f"metrics are {result['metrics']!r}"
    numbers = {
        "seconds": result["seconds"],
        "images": result["images"],
        **result["metrics"],
    }
    for name, value in numbers.items():
        if not isinstance(value, int | float):
            return f"{name} is {value!r}, no number"
        if "accuracy" in name and not 0 <= value <= 100:
            return f"{name} is {value}, not within 0 to 100"
    return None


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
