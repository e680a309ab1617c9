"""hydra/launcher=proc: every cell of a sweep is a process of its own.

One process that trains several cells would mix them up under DDP, and keep the memory
of earlier ones. A cell that fails does not stop the others; a table of the cells ends
the sweep.
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

from hydra_plugins.cells import Cell, cell_command, job_returns, print_cells
from hydra_plugins.reporting import Reporter
from unmask.distributed.line_prefix import PREFIX_VARIABLE
from unmask.distributed.processes import (
    PREEMPTED,
    STOP_SIGNALS,
    SUMMARY_VARIABLE,
    ForwardSignals,
    start_process,
)
from unmask.distributed.slurm import requeue

POLL = 0.05  # seconds between looks at the cells


@dataclass
class ProcLauncherConfig:
    """Declare the launcher's options.

    n_jobs: how many cells run at once. report: write src/report.py's page after each
    cell of a paper's table.
    """

    _target_: str = "hydra_plugins.proc_launcher.ProcLauncher"
    n_jobs: int = 1
    report: bool = False


ConfigStore.instance().store(
    group="hydra/launcher",
    name="proc",
    node=ProcLauncherConfig,
    provider="unmask",
)


class RunningCell(NamedTuple):
    """Hold a cell's process and the file to which it writes its results."""

    cell: Cell
    process: subprocess.Popen
    summary: Path


class ProcLauncher(Launcher):
    """Start `python src/train.py <overrides>` for each cell, n_jobs at a time."""

    def __init__(self, n_jobs: int = 1, report: bool = False) -> None:
        self.n_jobs = n_jobs
        self.report = report
        self.running: list[RunningCell] = []

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="unmask-sweep-")
        self.requeue = bool(config.trainer.requeue)
        # Hydra's sweeper writes a multirun.yaml into this folder: nobody needs it, as
        # the ledger keeps every cell's config
        with read_write(config):
            config.hydra.sweep.dir = self.folder.name

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all cells, print their table, and exit with an error if one failed."""
        if self.n_jobs < 1:
            print(
                f"hydra.launcher.n_jobs = {self.n_jobs}: set at least 1",
                file=sys.stderr,
            )
            sys.exit(2)
        self.reporter = Reporter(sys.argv[1:])
        cells = [Cell(list(overrides)) for overrides in job_overrides]
        with (
            self.folder as folder,
            ForwardSignals(STOP_SIGNALS, self._processes) as signals,
        ):
            self._run(cells, signals, Path(folder))
        print_cells(cells, self.reporter, with_report=not signals.num_received)
        if any(cell.is_unfinished for cell in cells):
            requeue(self.requeue)
        return job_returns(cells)

    def _processes(self) -> list[subprocess.Popen]:
        return [running.process for running in self.running]

    def _run(self, cells: list[Cell], signals: ForwardSignals, folder: Path) -> None:
        """Keep n_jobs cells running until all have ended.

        After a signal no new cell starts, and the running ones save and exit.
        """
        waiting = list(enumerate(cells, start=1))
        while waiting or self.running:
            while (
                waiting and len(self.running) < self.n_jobs and not signals.num_received
            ):
                number, cell = waiting.pop(0)
                prefix = f"[{number}/{len(cells)}] "
                self._start(cell, prefix, folder / f"{number}.json")
                signals.forward_earlier(self.running[-1].process)
            if signals.num_received and not self.running:
                return
            time.sleep(POLL)
            ended = [r for r in self.running if r.process.poll() is not None]
            for running in ended:
                self.running.remove(running)
                self._record_end(running, signals)

    def _start(self, cell: Cell, prefix: str, summary: Path) -> None:
        print(f"{prefix}{' '.join(cell.overrides)}", flush=True)
        extra_env = {
            SUMMARY_VARIABLE: str(summary),
            # lines of cells that run side by side are told apart
            PREFIX_VARIABLE: prefix if self.n_jobs > 1 else "",
        }
        process = start_process(cell_command(cell.overrides), extra_env)
        self.running.append(RunningCell(cell, process, summary))

    def _record_end(self, running: RunningCell, signals: ForwardSignals) -> None:
        """Note the cell's exit code and results."""
        cell = running.cell
        cell.code = running.process.returncode
        if signals.num_received and -cell.code in STOP_SIGNALS:
            # the signal came before Python could handle it: the cell had done nothing
            cell.code = PREEMPTED
        if running.summary.exists():
            cell.stages = json.loads(running.summary.read_text())
            if self.report and not signals.num_received:
                self.reporter.refresh()
