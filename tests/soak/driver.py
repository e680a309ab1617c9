"""The loop: an undisturbed sweep, the same one under faults, the comparison.

Then again with the next seed.
"""

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forked import Started
from soak.comparison import compare
from soak.faults import FAULTS, Target, describe
from soak.living import end_all, wait_for_none
from soak.sweep import Sweep
from unmask.distributed.processes import start_process

# done, a cell failed, preempted, killed, asked to leave while Python started
ALLOWED_CODES = (0, 1, 75, -9, -15)
# seconds after which no process of an ended sweep may be left
LEAVING = 60.0
POLL = 0.1


@dataclass
class Outcome:
    """What happened in a soak; it passed where there are no complaints."""

    kinds: list[str]
    num_faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    rounds: int = 0
    restarts: int = 0
    # seconds under faults
    disturbed: float = 0.0


@dataclass
class Pace:
    """When faults occur: `least` to `most` seconds apart, for `seconds` altogether.

    seconds: None until each kind has occurred once.
    """

    least: float = 10.0
    most: float = 30.0
    seconds: float | None = None


class Restarter:
    """Start the sweep again until it ends well."""

    def __init__(
        self,
        sweep: Sweep,
        start: "Start",
        outcome: Outcome,
        say: Callable[[str], None],
    ) -> None:
        self.sweep = sweep
        self.start = start
        self.outcome = outcome
        self.say = say
        self.process: subprocess.Popen | Started | None = None
        self.lock = threading.Lock()
        self.stop = threading.Event()
        # when the last fault was done, and how many exits had no fault before them
        self.disturbed_at = 0.0
        self.unexplained = 0
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Restarter":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        end_all(self.sweep.folder)
        self.thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        with self.lock:
            yield

    def pid(self) -> int | None:
        process = self.process
        return process.pid if process and process.poll() is None else None

    def _loop(self) -> None:
        attempt = 0
        while not self.stop.is_set():
            # no fault may damage files while the sweep starts
            with self.lock:
                began = time.monotonic()
                log = self.sweep.folder / f"attempt{attempt:03d}"
                log.mkdir()
                self.process = self.start(self.sweep, log)
            code = self.process.wait()
            if self.stop.is_set():
                return
            self.outcome.codes[code] += 1
            if code == 0:
                return
            attempt += 1
            self.outcome.restarts += 1
            self.say(f"the sweep ended with {code} ({log.name})")
            if code not in ALLOWED_CODES:
                self.outcome.complaints.append(f"exit code {code}: {log}")
            if self.disturbed_at < began:
                self.unexplained += 1
                self.outcome.complaints.append(
                    f"exit code {code} without a fault: {log}"
                )
                if self.unexplained == 3:
                    return

    def has_ended(self) -> bool:
        return not self.thread.is_alive()


# starts a sweep's command, whose output goes to files in the folder
Start = Callable[[Sweep, Path], subprocess.Popen | Started]


def start_sweep(sweep: Sweep, log: Path) -> subprocess.Popen:
    """Start the sweep in a new Python; it leaves when this process ends."""
    with (log / "output").open("wb") as output:
        return start_process(
            sweep.command(),
            sweep.environment(),
            cwd=sweep.folder,
            stdout=output,
            stderr=output,
        )


def fork_sweep(sweep: Sweep, log: Path) -> Started:
    """Start the sweep in a process that need not import torch."""
    return Started(sweep.command(), log, sweep.environment(), sweep.folder)


class Soak:
    """Make rounds, each with another seed, until the time of the faults is over."""

    def __init__(
        self,
        folder: Path,
        cells: Sequence[str],
        faults: Sequence[str],
        pace: Pace,
        seed: int,
        extra_overrides: Sequence[str] = (),
        start: Start = start_sweep,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder.resolve()
        self.cells = tuple(cells)
        self.faults = list(faults)
        self.pace = pace
        self.seed = seed
        self.extra_overrides = tuple(extra_overrides)
        self.start = start
        self.say = say
        self.rng = random.Random(seed)
        self.outcome = Outcome(self.faults)
        # of the faults' present turn, in random order
        self.to_do: list[str] = []

    def __call__(self) -> Outcome:
        while True:
            undisturbed = self._make_sweep("undisturbed")
            disturbed = self._make_sweep("disturbed")
            title = f"round {self.outcome.rounds + 1}, seed {undisturbed.seed}"
            self.say(f"{title}: undisturbed")
            self._run_undisturbed(undisturbed)
            self.say(f"{title}: under faults")
            self._run_disturbed(disturbed)
            if not self.outcome.complaints:
                self.outcome.complaints += compare(undisturbed, disturbed, self.outcome)
            self.outcome.rounds += 1
            if self.outcome.complaints or self._is_over():
                return self.outcome

    def _make_sweep(self, name: str) -> Sweep:
        seed = self.seed + self.outcome.rounds
        sweep = Sweep(
            self.folder / f"{name}{seed}",
            self.cells,
            seed,
            self.extra_overrides,
        )
        sweep.requests.mkdir(parents=True)
        return sweep

    def _run_undisturbed(self, sweep: Sweep) -> None:
        try:
            code = self.start(sweep, sweep.folder).wait()
        finally:
            end_all(sweep.folder)
        if code:
            self.outcome.complaints.append(
                f"the undisturbed sweep ended with {code}: {sweep.folder}"
            )

    def _run_disturbed(self, sweep: Sweep) -> None:
        if self.outcome.complaints:
            return
        with Restarter(sweep, self.start, self.outcome, self.say) as loop:
            target = Target(sweep, loop.pid, loop.paused, self.rng, self.say)
            while not loop.has_ended():
                if self._is_over():
                    loop.thread.join(1)
                    continue
                began = time.monotonic()
                self._wait(loop)
                if not loop.has_ended():
                    self._do_fault(loop, target)
                self.outcome.disturbed += time.monotonic() - began
            if left := wait_for_none(sweep.folder, LEAVING):
                self.outcome.complaints.append(
                    f"processes are left {LEAVING:.0f} s after the sweep:"
                    f" {describe(left)}"
                )

    def _wait(self, loop: Restarter) -> None:
        until = time.monotonic() + self.rng.uniform(self.pace.least, self.pace.most)
        while time.monotonic() < until and not loop.has_ended():
            time.sleep(POLL)

    def _do_fault(self, loop: Restarter, target: Target) -> None:
        """Do the next fault that is possible now; the others come first next time."""
        if not self.to_do:
            self.to_do = self.rng.sample(self.faults, len(self.faults))
        for kind in list(self.to_do):
            loop.disturbed_at = float("inf")
            at = time.strftime("%H:%M:%S")
            try:
                done = FAULTS[kind](target)
            except AssertionError as error:
                done = True
                self.outcome.complaints.append(str(error))
            loop.disturbed_at = time.monotonic()
            if done:
                self.say(f"{at} {kind}")
                self.to_do.remove(kind)
                self.outcome.num_faults[kind] += 1
                return

    def _is_over(self) -> bool:
        if self.pace.seconds is None:
            return len(self.outcome.num_faults) == len(self.faults)
        return self.outcome.disturbed >= self.pace.seconds
