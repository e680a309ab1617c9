"""End a training that hangs, with the stacks of all processes on file."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L

# The watching thread looks this often within the time allowed, and at least once in
# MAX_SECONDS.
LOOKS = 20
MAX_SECONDS = 1.0


class Watchdog(L.Callback):
    """End this process with exit code 1 if no batch begins, ends or is saved.

    After `minutes` without progress stacks.txt (stacks-<rank>.txt for ranks other than
    zero) gets every thread's stack. Ranks that wait for a hung one hang with it, so
    that all write theirs. The watchdog is a Python thread: where this process holds the
    interpreter's lock forever, only the other ranks notice.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder = folder
        self.limit = 60 * minutes
        self._idle_seconds = 0.0
        self._step = 0
        self._rank = 0
        self._stop: threading.Event | None = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self._rank = trainer.global_rank
        self._idle_seconds = 0.0
        self._stop = threading.Event()
        threading.Thread(
            target=self._watch, args=(self._stop,), name="watchdog", daemon=True
        ).start()

    def note_progress(self, trainer: L.Trainer, *_: Any) -> None:
        self._idle_seconds = 0.0
        self._step = trainer.global_step

    # Every sign of life.
    on_train_batch_start = note_progress
    on_train_batch_end = note_progress
    on_train_end = note_progress
    on_save_checkpoint = note_progress
    on_validation_start = note_progress
    on_validation_batch_start = note_progress
    on_validation_batch_end = note_progress
    on_validation_end = note_progress

    def _watch(self, stop: threading.Event) -> None:
        pause = min(MAX_SECONDS, self.limit / LOOKS)
        before = time.monotonic()
        while not stop.wait(pause):
            now = time.monotonic()
            # A look counts for two pauses at most: a process that was stopped (Ctrl-Z)
            # or a machine that slept has not hung.
            self._idle_seconds += min(now - before, 2 * pause)
            before = now
            if self._idle_seconds > self.limit:
                self._end_process()

    def _end_process(self) -> None:
        name = f"stacks-{self._rank}.txt" if self._rank else "stacks.txt"
        path = self.folder / name
        summary = (
            f"process {self._rank} has not moved for {self.limit / 60:g} minutes after"
            f" step {self._step}"
        )
        try:
            with path.open("w") as file:
                print(f"{summary}\n", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"every thread's stack is in {path}"
        # What hangs may be the disk.
        except OSError as error:
            where = f"its stacks could not be written ({error})"
        print(
            f"{summary}, at {_main_thread_position()}; {where}; the same command goes"
            " on from the last checkpoint; if a step may take longer, raise"
            " trainer.timeout_minutes",
            file=sys.stderr,
            flush=True,
        )
        # A process that hangs can run no handlers.
        os._exit(1)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._stop:
            self._stop.set()

    # Lightning does not call teardown after an exception.
    on_exception = teardown


def _main_thread_position() -> str:
    """Return the file, line and function where the main thread is.

    The innermost frame of this project is the one that says most, if there is one.
    """
    main_thread = threading.main_thread().ident or 0
    frames = traceback.extract_stack(sys._current_frames()[main_thread])
    project = Path(__file__).parents[1]
    own_frames = [frame for frame in frames if project in Path(frame.filename).parents]
    frame = (own_frames or frames)[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.name})"
