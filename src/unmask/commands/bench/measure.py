"""Time contestants in turn, and print what came out: one way for all benchmarks."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from rich.table import Table


class Contestant(NamedTuple):
    """What is timed. run: makes one round, whose number is its argument.

    items: images or steps of a round.
    """

    run: Callable[[int], Any]
    items: int = 1


def time_in_turn(
    contestants: dict[str, Contestant],
    rounds: int,
    seconds: float = 0.0,
    warm_up: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Return the seconds an item of each contestant in each round.

    They take turns, so that whatever else the machine does slows all of them alike, for
    so many rounds after those that warm up, and until `seconds` are over. clock: CPU
    time by default, in which other programs do not count.
    """
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.perf_counter()
    turn = 0
    while turn < warm_up + rounds or time.perf_counter() - began < seconds:
        for name, contestant in contestants.items():
            start = clock()
            contestant.run(turn)
            if turn >= warm_up:
                costs[name].append((clock() - start) / contestant.items)
        turn += 1
    return costs


def device_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock that waits until the device has done its work."""
    if device.type == "cpu":
        return time.perf_counter
    synchronise = torch.get_device_module(device).synchronize

    def read_clock() -> float:
        synchronise()
        return time.perf_counter()

    return read_clock


def median_ratio(costs: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of each round.

    Round by round: what else the machine does changes more slowly than that.
    """
    return statistics.median(a / b for a, b in zip(costs, others, strict=True))


def make_table(
    title: str | None, header: Sequence[str], rows: Iterable[Sequence[str]]
) -> Table:
    """Return a table whose first column has names, and the others numbers."""
    table = Table(title=title)
    for k, column in enumerate(header):
        table.add_column(column, justify="right" if k else "left")
    for row in rows:
        table.add_row(*row)
    return table
