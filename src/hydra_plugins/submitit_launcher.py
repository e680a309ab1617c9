"""hydra/launcher=submitit_slurm, submitit_local: every cell of a sweep is a job.

A job gets the machines and GPUs that its cell's trainer asks for. The options are those
of hydra-submitit-launcher, which ends with the first job that dies, whatever the others
returned, and runs a cell inside the job's own process, where a signal would come in the
middle of a step.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher import (  # type: ignore[import-untyped]
    config as submitit_config,
)
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.cells import Cell, exit_unless_finished, print_cells
from hydra_plugins.reporting import Reporter
from unmask.commands.cli import fail, this_script
from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check
from unmask.config.trainer import Trainer
from unmask.distributed.processes import PREEMPTED, ForwardSignals, received_signals
from unmask.distributed.slurm import EARLY_SECONDS

POLL_SECONDS = 1.0  # between looks at the jobs
# a job that trains needs at least this long to start and to make some steps
START_SECONDS = 60
# options of every executor of submitit; others get the name of their cluster in front
SHARED_OPTIONS = {field.name for field in fields(submitit_config.BaseQueueConf)} - {
    "submitit_folder"
}
DEFAULT_DELAY = submitit_config.SlurmQueueConf.signal_delay_s
DEFAULT_MINUTES = submitit_config.SlurmQueueConf.timeout_min
GPU_OPTIONS = {"gpus_per_node", "gpus_per_task", "gres"}


@dataclass
class SlurmJobs(submitit_config.SlurmQueueConf):
    """Declare the options of jobs on SLURM.

    nodes, gpus_per_node: null takes the cell's trainer.nodes and trainer.devices.
    max_num_timeout: how often a job that runs out of time is queued again.
    additional_parameters: options of sbatch that have no name here.
    """

    _target_: str = "hydra_plugins.submitit_launcher.SubmititLauncher"
    cluster: str = "slurm"
    # not a dict: Hydra would ask for a "+" before a key that it does not hold
    additional_parameters: Any = None
    nodes: int | None = None
    max_num_timeout: int = 10
    report: bool = False


@dataclass
class LocalJobs(submitit_config.LocalQueueConf):
    """Declare the options of jobs on this machine, all at once: to try things out."""

    _target_: str = "hydra_plugins.submitit_launcher.SubmititLauncher"
    cluster: str = "local"
    nodes: int | None = None
    max_num_timeout: int = 10
    report: bool = False


class Registration(SearchPathPlugin):
    """Register under the names of hydra-submitit-launcher.

    Hydra calls it when all plugins have been loaded, in whatever order: these stay.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        nodes = {"submitit_slurm": SlurmJobs, "submitit_local": LocalJobs}
        for name, node in nodes.items():
            ConfigStore.instance().store(
                group="hydra/launcher", name=name, node=node, provider="unmask"
            )


class SubmititLauncher(Launcher):
    """Submit a job for each cell, wait for all, and print what became of each."""

    def __init__(
        self,
        cluster: str,
        submitit_folder: str,
        max_num_timeout: int,
        report: bool = False,
        **options: Any,
    ) -> None:
        self.cluster = cluster
        self.report = report
        # setup() takes the config's
        self.runs_dir = "runs"
        self.executor_options: dict[str, Any] = {
            "folder": submitit_folder,
            "cluster": cluster,
            f"{cluster}_max_num_timeout": max_num_timeout,
        }
        # OmegaConf's containers become plain ones, which submitit takes
        plain = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }
        self.options = {key: value for key, value in plain.items() if value is not None}
        if cluster == "slurm" and "cpus_per_task" in self.options:
            # since SLURM 22.05 srun does not inherit the job's cpus_per_task
            self.options["setup"] = [
                *self.options.get("setup", []),
                "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
            ]

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.runs_dir = str(config.runs_dir)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[Any]:
        """Submit all cells, wait, print their table; exit with 1 where one failed."""
        composer = Composer()
        cells = [Cell(list(overrides)) for overrides in job_overrides]
        try:
            wanted = [
                resources(check(composer(cell.overrides)).trainer, self.options)
                for cell in cells
            ]
            if self.cluster == "slurm":
                refuse_short_limit(self.options)
            jobs = self._submit(cells, wanted)
        # submitit raises the last three: SLURM is missing, or an option does not exist
        except (ConfigError, ValueError, RuntimeError, NameError) as error:
            fail(str(error), 2)
        reporter = Reporter(sys.argv[1:], self.runs_dir, self.report)
        pending = self._wait(cells, jobs, reporter)
        for i in pending:
            # SLURM jobs continue after this command ends; local jobs do not
            cells[i].pending_state = f"job {jobs[i].job_id} goes on"
            if self.cluster == "local":
                cells[i].code = PREEMPTED
                jobs[i].cancel()
        print_cells(cells, reporter, is_complete=not pending)
        exit_unless_finished(cells)
        return []

    def _wait(
        self, cells: Sequence[Cell], jobs: Sequence[Any], reporter: Reporter
    ) -> list[int]:
        """Wait for the jobs, and return which are left after a signal."""
        pending = list(range(len(cells)))
        # no processes to pass signals on to: they are only counted
        with ForwardSignals():
            while pending and not received_signals:
                for i in pending:
                    if jobs[i].done():
                        self._record_end(cells[i], jobs[i], f"[{i + 1}/{len(cells)}] ")
                        reporter.refresh()
                time.sleep(POLL_SECONDS)
                pending = [i for i in pending if cells[i].code is None]
        return pending

    def _submit(
        self, cells: Sequence[Cell], wanted: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Return the jobs: one array for neighbouring cells of the same resources."""
        # seconds, and only this launcher needs it
        import submitit

        from unmask.distributed.slurm_states import QueueWatcher
        from unmask.distributed.submitit_job import CellJob

        submitit.SlurmJob.watcher = QueueWatcher()
        job_of_cell = CellJob(self.options.get("signal_delay_s", DEFAULT_DELAY))
        jobs: list[Any] = []
        pairs = zip(wanted, cells, strict=True)
        for resources_, group in groupby(pairs, key=lambda pair: pair[0]):
            executor = submitit.AutoExecutor(**self.executor_options)
            parameters = {
                key if key in SHARED_OPTIONS else f"{self.cluster}_{key}": value
                for key, value in (self.options | resources_).items()
            }
            executor.update_parameters(**parameters)
            commands = [this_script(cell.overrides) for _, cell in group]
            jobs += executor.map_array(job_of_cell, commands)
        print(
            f"jobs {', '.join(job.job_id for job in jobs)}; their output:"
            f" {jobs[0].paths.folder.parent}",
            flush=True,
        )
        return jobs

    def _record_end(self, cell: Cell, job: Any, prefix: str) -> None:
        """Note the cell's exit code and results, and print them.

        Of a failed cell, print the last line of its output too.
        """
        from submitit.core.utils import UncompletedJobError

        from unmask.distributed.submitit_job import last_words

        task = job.task(0)
        try:
            result = task.result()
            cell.code = result["code"]
            cell.stages = result["stages"]
        # the job was killed, or lost its machine
        except UncompletedJobError:
            cell.code = 1
            print(
                f"{prefix}job {job.job_id} ended without output ({task.state})",
                file=sys.stderr,
            )
        print(f"{prefix}{' '.join(cell.overrides)}: {cell.state}", flush=True)
        if cell.has_failed:
            print(
                f"{prefix}{last_words(task.stderr() or '')}\n"
                f"{prefix}{task.paths.stderr}",
                file=sys.stderr,
            )


def refuse_short_limit(options: dict[str, Any]) -> None:
    """Raise ConfigError where SLURM's signal would come before the first steps."""
    minutes = options.get("timeout_min", DEFAULT_MINUTES)
    delay = options.get("signal_delay_s", DEFAULT_DELAY)
    needed = delay + EARLY_SECONDS + START_SECONDS
    if 60 * minutes < needed:
        raise ConfigError(
            f"hydra.launcher.timeout_min = {minutes}: too short, as SLURM asks a job to"
            f" leave up to {delay + EARLY_SECONDS} seconds before its end"
            f" (hydra.launcher.signal_delay_s={delay}, and 60); set at least"
            f" {-(-needed // 60)}"
        )


def resources(trainer: Trainer, options: dict[str, Any]) -> dict[str, Any]:
    """Return the machines and GPUs of a cell's job that the options do not name.

    Raises ConfigError where the options contradict the cell's trainer.
    """
    nodes = options.get("nodes")
    tasks = options.get("tasks_per_node")
    gpus = options.get("gpus_per_node")
    if nodes not in (None, trainer.nodes):
        raise ConfigError(
            f"hydra.launcher.nodes = {nodes}: trainer.nodes is {trainer.nodes}; set"
            " trainer.nodes alone"
        )
    if tasks not in (None, 1, trainer.devices):
        raise ConfigError(
            f"hydra.launcher.tasks_per_node = {tasks}: set 1, which starts a process a"
            f" device, or trainer.devices ({trainer.devices})"
        )
    wanted: dict[str, Any] = {"nodes": trainer.nodes}
    names_gpus = bool(GPU_OPTIONS & options.keys())
    if trainer.accelerator == "cpu":
        return wanted
    if trainer.devices is None and not names_gpus:
        raise ConfigError(
            "trainer.devices = null: a job must know its number of GPUs; set"
            f" trainer.devices=8, or one of {', '.join(sorted(GPU_OPTIONS))} of"
            " hydra.launcher"
        )
    if gpus is not None and trainer.devices is not None and gpus < trainer.devices:
        raise ConfigError(
            f"hydra.launcher.gpus_per_node = {gpus}: too few for"
            f" trainer.devices={trainer.devices}"
        )
    return wanted if names_gpus else wanted | {"gpus_per_node": trainer.devices}
