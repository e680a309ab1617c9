"""The loop: an undisturbed sweep, the same one under faults until it ends, the comparison; with the next seed again."""

import random
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soak.comparison import compared
from soak.faults import FAULTS, Target, told
from soak.living import end_all, wait_for_none
from soak.sweep import Sweep
from unmask.distributed.processes import start_process

# done, a cell failed, asked to leave, killed, asked before it could answer
ALLOWED = (0, 1, 75, -9, -15)
LEAVING = 60.0  # seconds in which nothing of a sweep that has ended may be left
POLL = 0.1


@dataclass
class Outcome:
    """What a soak saw; it went well where there are no complaints."""

    kinds: list[str]
    met: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    rounds: int = 0
    restarts: int = 0
    disturbed: float = 0.0  # seconds


@dataclass
class Pace:
    """Seconds from one fault to the next, drawn between two; how long they come, or once each."""

    least: float = 10.0
    most: float = 30.0
    seconds: float | None = None  # None: until each has come once


class Restarting:
    """Starts the sweep again until it ends well."""

    def __init__(
        self, sweep: Sweep, outcome: Outcome, say: Callable[[str], None]
    ) -> None:
        self.sweep, self.outcome, self.say = sweep, outcome, say
        self.process: subprocess.Popen | None = None
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.disturbed_at, self.unexplained = 0.0, 0
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Restarting":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        end_all(self.sweep.identity)
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
            with self.lock:  # nobody damages anything meanwhile
                began = time.monotonic()
                log = self.sweep.folder / f"attempt{attempt:03d}.txt"
                with log.open("wb") as said:
                    self.process = started(self.sweep, said)
            code = self.process.wait()
            if self.stop.is_set():
                return
            self.outcome.codes[code] += 1
            if code == 0:
                return
            attempt += 1
            self.outcome.restarts += 1
            self.say(f"the sweep ended with {code} ({log.name})")
            if code not in ALLOWED:
                self.outcome.complaints.append(f"exit code {code}: {log}")
            if self.disturbed_at < began:
                self.unexplained += 1
                self.outcome.complaints.append(
                    f"exit code {code} without a fault: {log}"
                )
                if self.unexplained == 3:
                    return

    def ended(self) -> bool:
        return not self.thread.is_alive()


def started(sweep: Sweep, said: object) -> subprocess.Popen:
    """It leaves when this process does, however that ends."""
    return start_process(sweep.command(), sweep.environment(), stdout=said, stderr=said)


class Soak:
    """Rounds with one seed after the other, until the faults are over."""

    def __init__(
        self,
        folder: Path,
        cells: Sequence[str],
        kinds: Sequence[str],
        pace: Pace,
        seed: int,
        more: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.cells, self.kinds, self.pace, self.seed = (
            folder,
            tuple(cells),
            list(kinds),
            pace,
            seed,
        )
        self.more, self.say, self.draw = tuple(more), say, random.Random(seed)
        self.outcome = Outcome(self.kinds)
        self.deck: list[str] = []

    def __call__(self) -> Outcome:
        while True:
            quiet, shaken = (self._sweep(name) for name in ("undisturbed", "disturbed"))
            self.say(f"round {self.outcome.rounds + 1}, seed {quiet.seed}: undisturbed")
            self._undisturbed(quiet)
            self.say(
                f"round {self.outcome.rounds + 1}, seed {quiet.seed}: under faults"
            )
            self._disturbed(shaken)
            if not self.outcome.complaints:
                self.outcome.complaints += compared(quiet, shaken, self.outcome)
            self.outcome.rounds += 1
            if self.outcome.complaints or self._over():
                return self.outcome

    def _sweep(self, name: str) -> Sweep:
        seed = self.seed + self.outcome.rounds
        sweep = Sweep(
            uuid.uuid4().hex, self.folder / f"{name}{seed}", self.cells, seed, self.more
        )
        sweep.requests.mkdir(parents=True)
        return sweep

    def _undisturbed(self, sweep: Sweep) -> None:
        with (sweep.folder / "said.txt").open("wb") as said:
            process = started(sweep, said)
        try:
            code = process.wait()
        finally:
            end_all(sweep.identity)
        if code:
            self.outcome.complaints.append(
                f"the undisturbed sweep ended with {code}: {sweep.folder}/said.txt"
            )

    def _disturbed(self, sweep: Sweep) -> None:
        if self.outcome.complaints:
            return
        with Restarting(sweep, self.outcome, self.say) as loop:
            target = Target(sweep, loop.pid, loop.paused, self.draw, self.say)
            while not loop.ended():
                if self._over():
                    loop.thread.join(1)
                    continue
                began = time.monotonic()
                self._wait(loop)
                if not loop.ended():
                    self._fault(loop, target)
                self.outcome.disturbed += time.monotonic() - began
            if left := wait_for_none(sweep.identity, LEAVING):
                self.outcome.complaints.append(
                    f"processes are left {LEAVING:.0f} s after the sweep: {told(left)}"
                )

    def _wait(self, loop: Restarting) -> None:
        until = time.monotonic() + self.draw.uniform(self.pace.least, self.pace.most)
        while time.monotonic() < until and not loop.ended():
            time.sleep(POLL)

    def _fault(self, loop: Restarting, target: Target) -> None:
        """The next in turn that has something to be done to; what has not comes first next time."""
        if not self.deck:
            self.deck = self.draw.sample(self.kinds, len(self.kinds))
        for kind in list(self.deck):
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
                self.deck.remove(kind)
                self.outcome.met[kind] += 1
                return

    def _over(self) -> bool:
        if self.pace.seconds is None:
            return len(self.outcome.met) == len(self.kinds)
        return self.outcome.disturbed >= self.pace.seconds
