"""src/runs.py status: what runs now, how far sweeps are, and waiting for their end."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from unmask.commands.runs.listing import record_row
from unmask.commands.runs.names import find_record
from unmask.commands.runs.output import (
    format_seconds,
    print_line,
    print_rows,
)
from unmask.commands.runs.request import Request
from unmask.commands.units import count_noun
from unmask.stages.records import Ledger, RunRecord, read_ledger
from unmask.stages.sweeps import Sweep, SweepCell

RUNNING = ("running", "stalled")
LEFT = "left"
CELL_STATES = ("done", "running", "stalled", "failed", "interrupted", LEFT)
# exit codes of waiting; that of timeout(1) for a time that is over
CAME, CANNOT_COME, TIMED_OUT = 0, 1, 124


@dataclass(frozen=True)
class SweepStatus:
    """Say how many cells are in which state, and the seconds left, as far as known."""

    sweep: Sweep
    cells: dict[str, int]
    seconds_left: float
    # False where nothing tells how long some kind of stages takes
    is_complete: bool

    @property
    def is_open(self) -> bool:
        """Whether its command runs, or one of its cells does."""
        running = sum(self.cells[state] for state in RUNNING)
        return bool(running) or (self.sweep.is_driven and self.cells[LEFT] > 0)

    @property
    def progress(self) -> str:
        """Return how many cells are in which state, and the time left while it runs."""
        states = [f"{number} {state}" for state, number in self.cells.items() if number]
        text = f"{count_noun(len(self.sweep.cells), 'cell')}: {', '.join(states)}"
        if not self.is_open:
            return text
        word = "about" if self.is_complete else "more than"
        return f"{text}; {word} {format_seconds(self.seconds_left)} left"


def status(request: Request, ledger: Ledger) -> Any:
    """Print what runs; with until= wait, and return the code to exit with."""
    options = request.options
    if options.until is None:
        _print_status(ledger, request)
        return None
    watched = _watched(ledger, request)
    began = time.monotonic()
    while True:
        code = _verdict(ledger, watched, options.until)
        if code is not None:
            _print_status(ledger, request)
            print_line(f"until={options.until}: {_ANSWERS[code]}")
            return code
        minutes = (time.monotonic() - began) / 60
        if options.timeout_minutes and minutes >= options.timeout_minutes:
            print_line(f"until={options.until}: not within {minutes:.3g} minutes")
            return TIMED_OUT
        time.sleep(options.poll_seconds)
        ledger = read_ledger(ledger.runs_dir)


_ANSWERS = {CAME: "yes", CANNOT_COME: "no, and nothing runs any more"}


def _selected(ledger: Ledger, request: Request) -> tuple[list[RunRecord], list[Sweep]]:
    """Return the named stages and sweeps; all that is there where none is named."""
    if not request.words:
        return list(ledger.records), list(ledger.sweeps)
    records, sweeps = [], []
    for word in request.words:
        named = ledger.sweeps_named(word)
        if len(named) == 1:
            sweeps += named
        else:
            records.append(find_record(ledger, word))
    return records, sweeps


def _print_status(ledger: Ledger, request: Request) -> None:
    records, sweeps = _selected(ledger, request)
    statuses = [sweep_status(sweep, ledger) for sweep in sweeps]
    if not request.words:
        records = [record for record in records if record.state in RUNNING]
        statuses = [each for each in statuses if each.is_open]
    if request.options.format != "text":
        print_rows((), _rows(records, statuses), request.options.format, ())
        return
    for record in records:
        print_line(_describe(record))
    for each in statuses:
        print_line(_describe_sweep(each))
    if not records and not statuses:
        print_line(f"nothing runs in {ledger.runs_dir}")


def _rows(
    records: list[RunRecord], statuses: list[SweepStatus]
) -> list[dict[str, Any]]:
    stages = [
        record_row(record)
        | {
            "host": record.owner.get("host"),
            "pid": record.owner.get("pid"),
            "step": record.progress and record.progress.step,
            "steps": record.progress and record.progress.steps,
            "seconds_left": record.progress and record.progress.seconds_left,
        }
        for record in records
    ]
    sweeps = [
        {
            "sweep": each.sweep.id,
            "name": each.sweep.title,
            "command": each.sweep.command,
            "cells": each.cells,
            "seconds_left": each.seconds_left,
            "estimate_is_complete": each.is_complete,
        }
        for each in statuses
    ]
    return [*stages, *sweeps]


def _describe(record: RunRecord) -> str:
    """Return two lines on a stage: its name, then where it runs and how far it is."""
    facts: list[str] = [record.state]
    progress = record.progress
    if progress:
        facts.append(
            f"step {progress.step:,} of {progress.steps:,} ({progress.share:.0%})"
        )
    if record.state in RUNNING:
        facts += [f"for {format_seconds(_since(record))}"]
        if progress and progress.seconds_left is not None:
            facts.append(f"{format_seconds(progress.seconds_left)} left")
        if record.state == "stalled" and progress:
            silent = format_seconds(time.time() - progress.at)
            facts.append(f"nothing written for {silent}")
        facts.append(
            f"on {record.owner.get('host')}, process {record.owner.get('pid')}"
        )
    elif record.measure:
        facts.append(f"{record.measure.text} {record.measure.unit}")
    return f"{record.key}  {record.name}\n  {', '.join(facts)}"


def _since(record: RunRecord) -> float | None:
    """Return the seconds since this attempt began."""
    try:
        since = datetime.fromisoformat(record.owner["since"])
    except (KeyError, ValueError):
        return None
    return (datetime.now(UTC) - since).total_seconds()


def _describe_sweep(each: SweepStatus) -> str:
    text = f"sweep {each.sweep.id}  {each.sweep.title}\n  {each.progress}"
    if each.is_open or each.cells["done"] == len(each.sweep.cells):
        return text
    return f"{text}; go on with: {each.sweep.command}"


def sweep_status(sweep: Sweep, ledger: Ledger) -> SweepStatus:
    """Count the cells of a sweep by state, and estimate the time that is left.

    The estimate takes what finished stages of the same kind took in the mean, and as
    many cells at once as run now.
    """
    states = [cell_state(cell, ledger) for cell in sweep.cells]
    cells = {state: states.count(state) for state in CELL_STATES}
    # what failed or was interrupted is not tried again by a sweep that runs
    open_cells = [
        cell
        for cell, state in zip(sweep.cells, states, strict=True)
        if state in (*RUNNING, LEFT)
    ]
    keys = dict.fromkeys(key for cell in open_cells for key in _needed(cell, ledger))
    means = _mean_costs(sweep, ledger)
    costs = [_seconds_left(key, means, ledger) for key in keys]
    known = [seconds for seconds in costs if seconds is not None]
    at_once = max(1, cells["running"])
    return SweepStatus(sweep, cells, sum(known) / at_once, len(known) == len(costs))


def _needed(cell: SweepCell, ledger: Ledger) -> list[str]:
    return [key for key in (*cell.weights, *cell.stages) if not _is_done(key, ledger)]


def _is_done(key: str, ledger: Ledger) -> bool:
    record = ledger.by_key.get(key)
    return record is not None and record.state == "done"


def cell_state(cell: SweepCell, ledger: Ledger) -> str:
    """Return what becomes of a cell: done where all that it asks for is."""
    if all(_is_done(key, ledger) for key in cell.stages):
        return "done"
    keys = (*cell.weights, *cell.stages)
    states = {ledger.by_key[key].state for key in keys if key in ledger.by_key}
    for state in (*RUNNING, "failed", "damaged", "interrupted"):
        if state in states:
            return "failed" if state == "damaged" else state
    return LEFT


def _mean_costs(sweep: Sweep, ledger: Ledger) -> dict[str, float]:
    """Return the mean seconds of a stage by kind: of the sweep where it has some."""
    own = {key for cell in sweep.cells for key in (*cell.weights, *cell.stages)}
    nearest: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    for record in ledger.records:
        cost = _cost(record)
        if cost is not None:
            known = nearest if record.key in own else others
            known.setdefault(record.kind, []).append(cost)
    return {kind: statistics.mean(costs) for kind, costs in (others | nearest).items()}


def _seconds_left(key: str, means: Mapping[str, float], ledger: Ledger) -> float | None:
    """Return how long a stage will still take; None where nothing tells.

    means: what stages of each kind took.
    """
    record = ledger.by_key.get(key)
    if record and record.progress and record.progress.seconds_left is not None:
        return record.progress.seconds_left
    mean = means.get(key.partition("/")[0])
    if mean is None:
        return None
    so_far = _since(record) if record and record.state in RUNNING else None
    return max(0.0, mean - (so_far or 0.0))


def _cost(record: RunRecord) -> float | None:
    """Return what a stage took, or will have taken at the speed that it has."""
    progress = record.progress
    if record.state in RUNNING and progress and progress.seconds_left is not None:
        return progress.seconds_left / (1 - progress.share) if progress.share < 1 else 0
    return record.seconds


def _watched(ledger: Ledger, request: Request) -> set[str]:
    """Return the stages to wait for: the named ones, or those of all that runs now."""
    records, sweeps = _selected(ledger, request)
    if not request.words:
        records = [record for record in records if record.state in RUNNING]
        sweeps = [sweep for sweep in sweeps if sweep_status(sweep, ledger).is_open]
    keys = {key for sweep in sweeps for cell in sweep.cells for key in cell.stages}
    return keys | {record.key for record in records}


def _verdict(ledger: Ledger, watched: set[str], until: str) -> int | None:
    """Return the code to exit with; None while it may still come."""
    records = [ledger.by_key.get(key) for key in watched]
    states = [record.state if record else LEFT for record in records]
    wanted = {
        "done": all(state == "done" for state in states),
        "any-failure": any(state in ("failed", "damaged") for state in states),
        "stalled": "stalled" in states,
    }
    if wanted[until]:
        return CAME
    is_driven = any(
        sweep.is_driven
        for sweep in ledger.sweeps
        if any(key in watched for cell in sweep.cells for key in cell.stages)
    )
    return None if is_driven or set(states) & {*RUNNING} else CANNOT_COME
