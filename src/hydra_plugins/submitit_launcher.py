"""hydra/launcher=submitit_slurm, submitit_local: every cell of a sweep is a job, with the machines and GPUs it takes.

The options are those of hydra-submitit-launcher. That one ends with the first job that dies, whatever the others gave,
and runs a cell inside the job's own process, where a signal would come in the middle of a step.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import (  # type: ignore[import-untyped]
    BaseQueueConf,
    LocalQueueConf,
    SlurmQueueConf,
)
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.cells import Cell, command, ended, show
from hydra_plugins.composition import Composer
from hydra_plugins.reporting import Reporter
from unmask.commands.cli import fail
from unmask.config.checks import ConfigError, check
from unmask.config.schema import Trainer
from unmask.distributed.processes import PREEMPTED, SIGNALS, Forwarding

POLL = 1.0  # seconds
# the rest is one executor's own
GENERAL = {field.name for field in fields(BaseQueueConf)} - {"submitit_folder"}
GPUS = {"gpus_per_node", "gpus_per_task", "gres"}


@dataclass
class JobsOnSlurm(SlurmQueueConf):
    """nodes, gpus_per_node: null as the cell's trainer has them; max_num_timeout: how often it may run out of time."""

    _target_: str = "hydra_plugins.submitit_launcher.SubmititLauncher"
    cluster: str = "slurm"
    nodes: int | None = None
    max_num_timeout: int = 10
    report: bool = False


@dataclass
class JobsHere(LocalQueueConf):
    """Processes of this machine, all at once: for trying things out."""

    _target_: str = "hydra_plugins.submitit_launcher.SubmititLauncher"
    cluster: str = "local"
    nodes: int | None = None
    max_num_timeout: int = 10
    report: bool = False


class Registration(SearchPathPlugin):
    """Under the names of hydra-submitit-launcher, when all plugins have been loaded: in whatever order, ours stay."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, node in (
            ("submitit_slurm", JobsOnSlurm),
            ("submitit_local", JobsHere),
        ):
            ConfigStore.instance().store(
                group="hydra/launcher", name=name, node=node, provider="unmask"
            )


class SubmititLauncher(Launcher):
    """Submits a job a cell, waits for all of them, and says what became of each."""

    def __init__(
        self,
        cluster: str,
        submitit_folder: str,
        max_num_timeout: int,
        report: bool = False,
        **options: Any,
    ) -> None:
        self.cluster, self.report = cluster, report
        self.made: dict[str, Any] = {
            "folder": submitit_folder,
            "cluster": cluster,
            f"{cluster}_max_num_timeout": max_num_timeout,
        }
        plain = {
            key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v
            for key, v in options.items()
        }
        self.options = {key: value for key, value in plain.items() if value is not None}
        # of which srun takes no notice since SLURM 22.05
        if cluster == "slurm" and "cpus_per_task" in self.options:
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
        pass

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        cells, composer = (
            [Cell(list(overrides)) for overrides in job_overrides],
            Composer(),
        )
        try:
            wanted = [
                resources(check(composer(cell.overrides)).trainer, self.options)
                for cell in cells
            ]
            jobs = self._submit(cells, wanted)
        # of submitit: no SLURM, no such option
        except (ConfigError, ValueError, RuntimeError, NameError) as error:
            fail(str(error), 2)
        reporter = Reporter(sys.argv[1:])
        with Forwarding(SIGNALS, list) as signals:
            while (
                left := [i for i, cell in enumerate(cells) if cell.code is None]
            ) and not signals.asked:
                for i in left:
                    if jobs[i].done():
                        self._note(cells[i], jobs[i], f"[{i + 1}/{len(cells)}] ")
                        if self.report:
                            reporter.refresh()
                time.sleep(POLL)
        # this command was asked to leave: SLURM's jobs need it not, those of this
        # machine end with it
        for i in left:
            cells[i].waiting = f"job {jobs[i].job_id} goes on"
            if self.cluster == "local":
                cells[i].code = PREEMPTED
                jobs[i].cancel()
        show(cells, reporter, whole=not left)
        return ended(cells)

    def _submit(
        self, cells: Sequence[Cell], wanted: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """An array for each run of cells that want the same."""
        import submitit

        from unmask.distributed.submitit_job import CellJob

        jobs: list[Any] = []
        for want, group in groupby(
            zip(wanted, cells, strict=True), key=lambda pair: pair[0]
        ):
            executor = submitit.AutoExecutor(**self.made)
            given = self.options | want
            executor.update_parameters(
                **{
                    k if k in GENERAL else f"{self.cluster}_{k}": v
                    for k, v in given.items()
                }
            )
            jobs += executor.map_array(
                CellJob(), [command(cell.overrides) for _, cell in group]
            )
        print(
            f"jobs {', '.join(job.job_id for job in jobs)}; what they say:"
            f" {jobs[0].paths.folder.parent}",
            flush=True,
        )
        return jobs

    def _note(self, cell: Cell, job: Any, place: str) -> None:
        """What became of the cell; of one that failed, its last words."""
        from submitit.core.utils import UncompletedJobError

        try:
            found = job.task(0).result()
            cell.code, cell.stages = found["code"], found["stages"]
        except UncompletedJobError:  # it was killed, or lost its machine
            cell.code = 1
            print(
                f"{place}job {job.job_id} ended without a word ({job.task(0).state})",
                file=sys.stderr,
            )
        print(f"{place}{' '.join(cell.overrides)}: {cell.state}", flush=True)
        if cell.failed:
            said = (job.task(0).stderr() or "").strip().splitlines()
            print(
                f"{place}{said[-1] if said else 'no word'}\n{place}{job.task(0).paths.stderr}",
                file=sys.stderr,
            )


def resources(trainer: Trainer, options: dict[str, Any]) -> dict[str, Any]:
    """The machines and GPUs of a cell's job, where the launcher's options do not say them. Raises ConfigError."""
    nodes, tasks, gpus = (
        options.get(key) for key in ("nodes", "tasks_per_node", "gpus_per_node")
    )
    if nodes not in (None, trainer.nodes):
        raise ConfigError(
            f"hydra.launcher.nodes = {nodes}: trainer.nodes is {trainer.nodes}; give"
            " the latter alone"
        )
    if tasks not in (None, 1, trainer.devices):
        raise ConfigError(
            f"hydra.launcher.tasks_per_node = {tasks}: 1, which starts a process a"
            f" device, or trainer.devices ({trainer.devices})"
        )
    wanted: dict[str, Any] = {"nodes": trainer.nodes}
    if trainer.accelerator == "cpu":
        return wanted
    if trainer.devices is None and not GPUS & options.keys():
        raise ConfigError(
            "trainer.devices = null: how many GPUs is the job to have? say"
            " trainer.devices=8"
        )
    if gpus is not None and trainer.devices is not None and gpus < trainer.devices:
        raise ConfigError(
            f"hydra.launcher.gpus_per_node = {gpus}: too few for"
            f" trainer.devices={trainer.devices}"
        )
    return (
        wanted if GPUS & options.keys() else wanted | {"gpus_per_node": trainer.devices}
    )
