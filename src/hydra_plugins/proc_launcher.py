"""hydra/launcher=proc: every cell of a sweep is a process of its own.

One process that trains several cells mixes them up under DDP and keeps the memory of the ones before. A cell that fails
does not stop the rest; a table of the cells ends the sweep.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from hydra_plugins.cells import Cell, command, ended, show
from hydra_plugins.reporting import Reporter
from unmask.distributed.line_prefix import PREFIX
from unmask.distributed.processes import (
    PREEMPTED,
    SIGNALS,
    SUMMARY,
    Forwarding,
    start_process,
)
from unmask.distributed.slurm import requeue

POLL = 0.05  # seconds


@dataclass
class ProcLauncherConfig:
    """n_jobs: how many cells run at once; report: of the paper's tables, write src/report.py's page after each cell."""

    _target_: str = "hydra_plugins.proc_launcher.ProcLauncher"
    n_jobs: int = 1
    report: bool = False


ConfigStore.instance().store(
    group="hydra/launcher",
    name="proc",
    node=ProcLauncherConfig,
    provider="unmask",
)


class Running(NamedTuple):
    """A cell's process and the file in which it tells its results."""

    cell: Cell
    process: subprocess.Popen
    summary: Path


class ProcLauncher(Launcher):
    """Starts `python src/train.py <overrides>` for each cell."""

    def __init__(self, n_jobs: int = 1, report: bool = False) -> None:
        self.n_jobs, self.report = n_jobs, report
        self.running: list[Running] = []

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="unmask-sweep-")
        self.requeue = bool(config.trainer.requeue)
        # Hydra's sweeper leaves a multirun.yaml there; the ledger keeps every cell's
        # config
        with read_write(config):
            config.hydra.sweep.dir = self.folder.name

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if self.n_jobs < 1:
            print(f"hydra.launcher.n_jobs = {self.n_jobs}: at least 1", file=sys.stderr)
            raise SystemExit(2)
        self.reporter = Reporter(sys.argv[1:])
        cells = [Cell(list(overrides)) for overrides in job_overrides]
        with (
            self.folder as folder,
            Forwarding(SIGNALS, lambda: [r.process for r in self.running]) as signals,
        ):
            self._run(cells, signals, Path(folder))
        show(cells, self.reporter, whole=not signals.asked)
        if any(cell.unfinished for cell in cells):
            requeue(self.requeue)
        return ended(cells)

    def _run(self, cells: list[Cell], signals: Forwarding, folder: Path) -> None:
        waiting = list(cells)
        while waiting or self.running:
            while waiting and len(self.running) < self.n_jobs and not signals.asked:
                cell = waiting.pop(0)
                place = f"[{cells.index(cell) + 1}/{len(cells)}] "
                print(f"{place}{' '.join(cell.overrides)}", flush=True)
                summary = folder / f"{len(waiting)}.json"
                given = {
                    SUMMARY: str(summary),
                    PREFIX: place if self.n_jobs > 1 else "",
                }
                self.running.append(
                    Running(
                        cell, start_process(command(cell.overrides), given), summary
                    )
                )
                signals.catch_up(self.running[-1].process)
            if signals.asked and not self.running:
                return
            time.sleep(POLL)
            for done in [
                running
                for running in self.running
                if running.process.poll() is not None
            ]:
                self.running.remove(done)
                self._note(done, signals)

    def _note(self, done: Running, signals: Forwarding) -> None:
        """What became of the cell."""
        cell, cell.code = done.cell, done.process.returncode
        if signals.asked and -cell.code in SIGNALS:
            # asked to leave before it could do better: nothing was begun
            cell.code = PREEMPTED
        if done.summary.exists():
            cell.stages = json.loads(done.summary.read_text())
            if self.report and not signals.asked:
                self.reporter.refresh()
