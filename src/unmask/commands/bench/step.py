"""Time training steps of all contestants in turn, each in a process of its own."""

import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Any

from unmask.commands.bench.entries import Entry, list_entries
from unmask.commands.bench.step_messages import END, TURN, Facts, Failure, Request
from unmask.config.hardware import Precision
from unmask.distributed.processes import start_process

WORKER = "unmask.commands.bench.step_worker"
SOURCE = Path(__file__).parents[3]
WARM_UP_ROUNDS = 2
# a process may need so many times the memory of the largest so far
MEMORY_MARGIN = 1.2
# that a process has to leave when it is asked to
PATIENCE = 10.0
Say = Callable[[str], object]


class WorkerError(Exception):
    """Say in one line why a process gives no further answer."""


class Worker:
    """Hold a process that makes a step whenever it is asked for one."""

    def __init__(self, request: Any, module: str | None = None) -> None:
        """Start it with a request; module: what it runs, by default a contestant."""
        self.connection, theirs = Pipe()
        paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = start_process(
            [sys.executable, "-m", module or WORKER, str(theirs.fileno())],
            {"PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.connection.send(request)

    def receive(self) -> Any:
        """Wait for an answer; raise WorkerError where there is none."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            # the kernel kills what takes the last memory
            reason = "; is the memory full?" if code == -SIGKILL else ""
            message = f"its process ended with exit code {code}{reason}"
            raise WorkerError(message) from None
        if isinstance(answer, Failure):
            raise WorkerError(answer.message)
        return answer

    def ask(self, message: str) -> Any:
        """Send a message and return the answer; raise WorkerError for none."""
        # where the process has ended, receive() says with which code
        with suppress(OSError):
            self.connection.send(message)
        return self.receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


@dataclass
class Timed:
    """Hold what was measured of a contestant.

    seconds: of each step. ratios: to our step of the same round and precision. peak:
    bytes beyond those that the process held before there was a model.
    """

    entry: Entry
    facts: Facts
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class StepResults:
    """Hold all contestants, FLOP/s of large products by precision, and remarks.

    rates: without the precisions of which none was measured.
    """

    timed: dict[Entry, Timed] = field(default_factory=dict)
    rates: dict[Precision, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    products_failed: bool = False


def compare_steps(spec: dict[str, Any], say: Say = print) -> StepResults:
    """Time all contestants in rounds; as many at once as fit in the memory.

    say: is told what is done now. Raises ValueError where our own step cannot be made.
    """
    results = StepResults()
    waiting = list_entries(spec)
    groups = 0
    with Worker(Request(spec)) as products:
        while waiting:
            with ExitStack() as processes:
                group = Group(spec, results, processes)
                waiting = group.start(waiting, say)
                for turn in range(WARM_UP_ROUNDS + spec["rounds"]):
                    say(f"round {turn + 1} of {WARM_UP_ROUNDS + spec['rounds']}")
                    measure_products(products, results, spec)
                    group.run_round(is_warm_up=turn < WARM_UP_ROUNDS)
                group.ask_peaks()
            groups += 1
    if groups > 1:
        results.notes.append(
            f"All would not fit in the memory at once: measured in {groups} groups,"
            " each beside unmask."
        )
    return results


def measure_products(
    products: Worker, results: StepResults, spec: dict[str, Any]
) -> None:
    """Keep the best rate of large products, which take turns with the contestants.

    Where their process fails, the rates so far stand, and a note says so.
    """
    if results.products_failed:
        return
    try:
        for precision in spec["precisions"]:
            # 0 where the memory is too full for any product
            if rate := products.ask(precision):
                results.rates[precision] = max(results.rates.get(precision, 0.0), rate)
    except WorkerError as error:
        results.products_failed = True
        results.notes.append(
            f"Large products failed: {error}; their rate is the best until then."
        )


class Group:
    """Hold processes that take turns: all of them fit in the memory together."""

    def __init__(
        self, spec: dict[str, Any], results: StepResults, processes: ExitStack
    ) -> None:
        self.spec = spec
        self.results = results
        self.processes = processes
        self.workers: dict[Entry, Worker] = {}
        self.references: dict[Precision, Entry] = {}

    def start(self, entries: list[Entry], say: Say) -> list[Entry]:
        """Start those that fit, at least one; return the others."""
        for k, entry in enumerate(entries):
            others = len(self.workers) - len(self.references)
            if others and not self._has_room():
                return entries[k:]
            if entry.precision not in self.references:
                reference = Entry("unmask", entry.precision, "auto")
                self.references[entry.precision] = reference
                self._start_entry(reference, say)
            if entry not in self.workers:
                self._start_entry(entry, say)
        return []

    def _has_room(self) -> bool:
        facts = [self.results.timed[entry].facts for entry in self.workers]
        return facts[-1].available > MEMORY_MARGIN * max(each.peak for each in facts)

    def _start_entry(self, entry: Entry, say: Say) -> None:
        say(f"first step of {entry.title}, {entry.precision}")
        request = Request(self.spec, entry)
        worker = self.processes.enter_context(Worker(request))
        try:
            facts = worker.receive()
        except WorkerError as error:
            self._leave_out(entry, error)
            return
        self.results.timed.setdefault(entry, Timed(entry, facts))
        self.workers[entry] = worker

    def _leave_out(self, entry: Entry, error: WorkerError) -> None:
        if entry.is_reference:
            raise ValueError(
                f"unmask itself cannot make this step: {error}; try a smaller batch="
            ) from None
        self.workers.pop(entry, None)
        self.results.notes.append(
            f"{entry.title}, {entry.precision}, is left out: {error}"
        )

    def run_round(self, is_warm_up: bool) -> None:
        """Let all make a step in turn; the steps of a warm-up are not kept."""
        seconds = self._ask_all(TURN)
        if is_warm_up:
            return
        for entry, taken in seconds.items():
            timed = self.results.timed[entry]
            timed.seconds.append(taken)
            timed.ratios.append(taken / seconds[self.references[entry.precision]])

    def ask_peaks(self) -> None:
        """Ask for the most memory that each process has held, and let it end."""
        for entry, peak in self._ask_all(END).items():
            timed = self.results.timed[entry]
            timed.peak = max(timed.peak, peak - timed.facts.before)

    def _ask_all(self, message: str) -> dict[Entry, Any]:
        """Ask in turn and return the answers; leave out those that give none."""
        answers = {}
        for entry, worker in list(self.workers.items()):
            try:
                answers[entry] = worker.ask(message)
            except WorkerError as error:
                self._leave_out(entry, error)
                # half of what is measured would be compared with all of the others'
                del self.results.timed[entry]
        return answers
