"""A training in which nothing moves any more is ended, after every process has written down where it stands."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L

LOOKS = 20  # in the time allowed
LONGEST = 1.0  # seconds between two looks


class Watchdog(L.Callback):
    """Ends this process with exit code 1 when no batch begins, ends or is saved for `minutes`.

    stacks.txt (stacks-<rank>.txt of others than the first) then has every thread's stack. Processes that wait for a
    hung one hang with it, so that all write theirs. It is a thread of Python: code that holds the interpreter's lock
    for ever is only found by the other processes.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.limit = folder, 60 * minutes
        self._idle, self._step, self._rank = 0.0, 0, 0
        self._over: threading.Event | None = None

    def setup(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        self._rank, self._idle, self._over = trainer.global_rank, 0.0, threading.Event()
        threading.Thread(
            target=self._watch, args=(self._over,), name="watchdog", daemon=True
        ).start()

    def moved(self, trainer: L.Trainer, *_: Any) -> None:
        """At every sign of life."""
        self._idle, self._step = 0.0, trainer.global_step

    on_train_batch_start = on_train_batch_end = on_save_checkpoint = (
        on_validation_start
    ) = moved
    on_validation_batch_start = on_validation_batch_end = on_validation_end = (
        on_train_end
    ) = moved

    def _watch(self, over: threading.Event) -> None:
        """Time is counted look by look: a process that was stopped (Ctrl-Z) or a machine that slept has not hung."""
        pause = min(LONGEST, self.limit / LOOKS)
        looked = time.monotonic()
        while not over.wait(pause):
            now = time.monotonic()
            self._idle += min(now - looked, 2 * pause)
            looked = now
            if self._idle > self.limit:
                self._end()

    def _end(self) -> None:
        path = self.folder / (
            f"stacks-{self._rank}.txt" if self._rank else "stacks.txt"
        )
        told = (
            f"process {self._rank} has not moved for {self.limit / 60:g} minutes after"
            f" step {self._step}"
        )
        try:
            with path.open("w") as file:
                print(f"{told}\n", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"every thread's stack is in {path}"
        except OSError as error:  # what hangs may be the disk
            where = f"its stacks could not be written ({error})"
        print(
            f"{told}, at {_main_place()}; {where}; the same command goes on from the"
            " last checkpoint; if a step may take longer, raise"
            " trainer.timeout_minutes",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # nothing that hangs can be asked to leave

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(
        self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str
    ) -> None:
        if self._over:
            self._over.set()


def _main_place() -> str:
    """Where the main thread stands, of this project's own code if it is in it."""
    frames = traceback.extract_stack(
        sys._current_frames()[threading.main_thread().ident or 0]
    )
    ours = [
        frame
        for frame in frames
        if Path(__file__).parents[1] in Path(frame.filename).parents
    ]
    frame = (ours or frames)[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.name})"
