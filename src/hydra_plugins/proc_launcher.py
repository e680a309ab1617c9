"""hydra/launcher=proc: every cell of a sweep is a process of its own.

One process that trains several cells would mix them up under DDP, and keep the memory
of earlier ones. A cell that fails does not stop the others; a table of the cells ends
the sweep.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from hydra_plugins.cell_starter import CellStarter
from hydra_plugins.cells import (
    Cell,
    describe_progress,
    exit_unless_finished,
    print_cells,
)
from hydra_plugins.reporting import Reporter
from unmask.commands.cli import fail
from unmask.distributed.line_prefix import PREFIX_VARIABLE
from unmask.distributed.processes import (
    SUMMARY_VARIABLE,
    ForwardSignals,
    received_signals,
    wait_for_cell,
)
from unmask.distributed.slurm import requeue


@dataclass
class ProcLauncherConfig:
    """Declare the launcher's options.

    n_jobs: how many cells run at once. report: write src/report.py's page after each
    cell of a paper's table. warm: fork cells from one process that has imported torch.
    """

    _target_: str = "hydra_plugins.proc_launcher.ProcLauncher"
    n_jobs: int = 1
    report: bool = False
    warm: bool = True


ConfigStore.instance().store(
    group="hydra/launcher",
    name="proc",
    node=ProcLauncherConfig,
    provider="unmask",
)


class ProcLauncher(Launcher):
    """Start `python src/train.py <overrides>` for each cell, n_jobs at a time."""

    def __init__(
        self, n_jobs: int = 1, report: bool = False, warm: bool = True
    ) -> None:
        self.n_jobs = n_jobs
        self.report = report
        self.warm = warm
        # setup() takes the config's
        self.runs_dir = "runs"
        # the line of a cell comes before what the cell prints
        self.lock = Lock()

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="unmask-sweep-")
        self.requeue = bool(config.trainer.requeue)
        self.runs_dir = str(config.runs_dir)
        # Hydra's sweeper writes a multirun.yaml into this folder: nobody needs it, as
        # the ledger keeps every cell's config
        with read_write(config):
            config.hydra.sweep.dir = self.folder.name

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[Any]:
        """Run all cells, print their table, and exit with an error if one failed."""
        if self.n_jobs < 1:
            fail(f"hydra.launcher.n_jobs = {self.n_jobs}: set at least 1", 2)
        reporter = Reporter(sys.argv[1:], self.runs_dir, self.report)
        cells = [Cell(list(overrides)) for overrides in job_overrides]
        self.starter = CellStarter(self.runs_dir, self.warm)
        # a thread waits for each cell that runs
        with (
            self.folder,
            ForwardSignals() as signals,
            ThreadPoolExecutor(self.n_jobs) as pool,
        ):
            runs = [
                pool.submit(self._run, cells, number, signals)
                for number in range(len(cells))
            ]
            for run in as_completed(runs):
                run.result()
                if not received_signals:
                    reporter.refresh()
        print_cells(cells, reporter, is_complete=not received_signals)
        if any(cell.is_unfinished for cell in cells):
            requeue(self.requeue)
        exit_unless_finished(cells)
        return []

    def _run(self, cells: list[Cell], number: int, signals: ForwardSignals) -> None:
        """Run a cell, unless a signal has come; note its exit code and results."""
        if received_signals:
            return
        cell, prefix = cells[number], f"[{number + 1}/{len(cells)}] "
        summary = Path(self.folder.name) / f"{id(cell)}.json"
        extra_env = {
            SUMMARY_VARIABLE: str(summary),
            # lines of cells that run side by side are told apart
            PREFIX_VARIABLE: prefix if self.n_jobs > 1 else "",
        }
        with self.lock:
            print(f"{prefix}{' '.join(cell.overrides)}", flush=True)
        self.starter.wait_for(cell.overrides)
        if received_signals:
            return
        start = time.monotonic()
        process = self.starter.start(cell.overrides, extra_env)
        signals.add(process)
        code, cell.stages = wait_for_cell(process, summary)
        with self.lock:
            cell.code, cell.seconds = code, time.monotonic() - start
            if len(cells) > 1 and not received_signals:
                progress = describe_progress(cells, cell, self.n_jobs)
                print(f"{prefix}{progress}", flush=True)
