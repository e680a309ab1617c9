"""hydra/launcher=proc: every cell of a sweep is a process of its own.

One process that trains several cells mixes them up under DDP and keeps the memory of the ones before. A cell that fails
does not stop the rest; a table of the cells ends the sweep.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from hydra_plugins.reporting import Reporter
from unmask.processes import PREEMPTED, Forwarding, start
from unmask.runs.commands import config_flags
from unmask.runs.marked import MARK

POLL = 0.05  # seconds


@dataclass
class ProcLauncherConfig:
    """n_jobs: how many cells run at once; report: of the paper's tables, write src/report.py's page after each cell."""

    _target_: str = "hydra_plugins.proc_launcher.ProcLauncher"
    n_jobs: int = 1
    report: bool = False


ConfigStore.instance().store(
    group="hydra/launcher", name="proc", node=ProcLauncherConfig, provider="unmask",
)  # fmt: skip


@dataclass
class Cell:
    """One cell of the sweep and what became of it."""

    overrides: list[str]
    summary: Path
    process: subprocess.Popen | None = None
    code: int | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.code is None:
            return "not started"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code == PREEMPTED:
            return "preempted: run me again"
        if self.code or not self.stages:
            return f"failed (exit {self.code})"
        return "from the ledger" if all(stage["from_ledger"] for stage in self.stages) else "done"


class ProcLauncher(Launcher):
    """Starts `python src/train.py <overrides>` for each cell."""

    def __init__(self, n_jobs: int = 1, report: bool = False) -> None:
        self.n_jobs, self.report = n_jobs, report
        self.running: list[Cell] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="unmask-sweep-")
        with read_write(config):  # Hydra's sweeper leaves a multirun.yaml there; the ledger keeps every cell's config
            config.hydra.sweep.dir = self.folder.name

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from rich.console import Console

        from unmask.reports.tables import cells_table

        if self.n_jobs < 1:
            print(f"hydra.launcher.n_jobs = {self.n_jobs}: at least 1", file=sys.stderr)
            raise SystemExit(2)
        self.reporter = Reporter(sys.argv[1:])
        with self.folder as folder:
            cells = [Cell(list(o), Path(folder) / f"{i}.json") for i, o in enumerate(job_overrides)]
            with Forwarding(
                (signal.SIGTERM, signal.SIGINT), lambda: [c.process for c in self.running if c.process]
            ) as signals:
                self._run(cells, signals)
        Console().print(cells_table([(cell.overrides, cell.state, cell.stages) for cell in cells]))
        self.reporter.finish(show=not signals.asked)
        failed = [
            cell for cell in cells if cell.code not in (0, None, PREEMPTED) or (cell.code == 0 and not cell.stages)
        ]
        if failed or any(cell.code != 0 for cell in cells):
            raise SystemExit(1 if failed else PREEMPTED)
        return [JobReturn(overrides=c.overrides, status=JobStatus.COMPLETED, _return_value=None) for c in cells]

    def _run(self, cells: list[Cell], signals: Forwarding) -> None:
        waiting = list(cells)
        while waiting or self.running:
            while waiting and len(self.running) < self.n_jobs and not signals.asked:
                cell = waiting.pop(0)
                place = f"[{cells.index(cell) + 1}/{len(cells)}] "
                print(f"{place}{' '.join(cell.overrides)}", flush=True)
                cell.process = self._start(cell, place if self.n_jobs > 1 else "")
                self.running.append(cell)
            if signals.asked and not self.running:
                return
            time.sleep(POLL)
            for cell in [c for c in self.running if c.process and c.process.poll() is not None]:
                self.running.remove(cell)
                assert cell.process is not None
                cell.code = cell.process.returncode
                if signals.asked and cell.code in (-signal.SIGTERM, -signal.SIGINT):
                    cell.code = PREEMPTED  # asked to leave before it could do better: nothing was begun
                if cell.summary.exists():
                    cell.stages = json.loads(cell.summary.read_text())
                    if self.report and not signals.asked:
                        self.reporter.refresh()

    def _start(self, cell: Cell, mark: str) -> subprocess.Popen:
        """`mark` begins every line that the cell prints."""
        command = [sys.executable, sys.argv[0], *config_flags(sys.argv[1:]), *cell.overrides]
        return start(command, {"UNMASK_SUMMARY": str(cell.summary), MARK: mark})
