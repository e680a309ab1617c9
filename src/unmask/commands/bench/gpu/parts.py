"""The parts of the GPU benchmark, one after the other, each in a process of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from unmask.commands.bench.gpu.context import (
    PARTS,
    PartName,
    PartRequest,
    Report,
    Sizes,
)
from unmask.commands.bench.step import Worker, WorkerError

PART_WORKER = "unmask.commands.bench.gpu.part_worker"
TIME_IS_OVER = "The time was over before all of it was measured."


@dataclass
class PartResult:
    """Hold what a part has reported, and why no more."""

    title: str
    reports: list[Report] = field(default_factory=list)
    fault: str = ""


def measure_parts(
    names: list[PartName],
    sizes: Sizes,
    device: str,
    seconds: float,
    say: Callable[[str], object],
) -> list[PartResult]:
    """Measure all parts in the given time; a part that fails stops no other.

    A part may take all that is left, so that the last one gets the most.
    """
    ends = time.time() + seconds
    results = []
    for name in names:
        result = PartResult(PARTS[name])
        results.append(result)
        say(f"{result.title}: {max(0.0, ends - time.time()) / 60:.0f} minutes left")
        if time.time() > ends:
            result.fault = TIME_IS_OVER
            continue
        request = PartRequest(name, sizes, device, ends)
        with Worker(request, PART_WORKER) as worker:
            _collect(worker, request, result)
    return results


def _collect(worker: Worker, request: PartRequest, result: PartResult) -> None:
    try:
        while worker.connection.poll(max(0.0, request.seconds_left)):
            report = worker.receive()
            if report is None:
                return
            result.reports.append(report)
        result.fault = TIME_IS_OVER
    except WorkerError as error:
        result.fault = f"It failed: {error}"
