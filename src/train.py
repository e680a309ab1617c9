"""Train one run, its stages in order; with -m a sweep of runs. See --help.

A cell is one run of a sweep. The ledger is runs_dir, with a folder for each stage
(docs/ledger.md). A listing says which images there are.
"""

import gc
import os
import signal

INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"


def exit_interrupted(*_: object) -> None:
    """Exit with 75 while modules are imported: there is nothing to save yet.

    An exception in the middle of an import would get lost, or end in a traceback.
    """
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(75)


# imports take a while: a signal may come before their end, and what is wrong is said
# before they begin
if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # nohup asks to ignore SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
            signal.signal(number, exit_interrupted)
    # until torch is imported: imports leave no garbage, and looking for it takes a
    # fifth of their time
    gc.disable()
    from unmask.commands.cli import check_typed
    from unmask.distributed.line_prefix import prefix_lines
    from unmask.distributed.processes import end_with_parent
    from unmask.storage.streams import outlive_streams

    end_with_parent()
    outlive_streams()
    prefix_lines()
    check_typed()

import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from unmask.commands.cli import (
    USER_ERRORS,
    fail,
    mark_started,
    run_hydra,
    this_script,
    user_message,
)
from unmask.commands.composition import resolve
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import ABLATIONS, ALL
from unmask.config.overrides import override_key, without_plus
from unmask.dashboards.trackio_run import refuse_missing_trackio
from unmask.distributed.launcher import STARTED_VARIABLE, launch
from unmask.distributed.line_prefix import PREFIX_VARIABLE, PrefixedStream
from unmask.distributed.machine import keep_freed_memory
from unmask.distributed.processes import (
    OUT_OF_MEMORY,
    PREEMPTED,
    SUMMARY_VARIABLE,
    received_signals,
    time_limit,
)
from unmask.distributed.ranks import RankInfo, rank_info
from unmask.distributed.slurm import requeue
from unmask.stages.checked_cells import refuse_unchecked_cell
from unmask.stages.devices import total_processes
from unmask.stages.disk import refuse_small_disk
from unmask.stages.drift import describe_drift, kept_results
from unmask.stages.ledger import StageFolder
from unmask.stages.origin import Origin, this_origin
from unmask.stages.plan import Plan, make_plan
from unmask.stages.sweeps import SWEEP_VARIABLE
from unmask.storage.atomic import write_text

if TYPE_CHECKING:
    from rich.console import Console

CONF = Path(__file__).parent.parent / "conf"
STARTED_AT = time.monotonic()
# a restarted command gets at least this much of trainer.max_minutes
MIN_MINUTES = 0.01

Result = dict[str, Any]  # the content of a stage's result.json


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(cfg: DictConfig) -> None:
    """Check, plan, train and report one run.

    Exits with 0 done, 1 error, 2 bad config, 75 preempted.
    """
    mark_started()
    try:
        run_config(cfg)
    except ConfigError as error:
        fail(str(error), 2)
    except Exception as error:
        is_explained = isinstance(error, USER_ERRORS) or hasattr(error, "__notes__")
        if not is_explained:
            # raised outside of any stage: no error.txt has its traceback
            raise
        fail(user_message(error), 1)
    except SystemExit as leaving:
        if leaving.code == PREEMPTED:
            requeue(cfg.trainer.requeue)
        raise
    except KeyboardInterrupt:
        fail(INTERRUPTED, PREEMPTED)


def run_config(cfg: DictConfig) -> None:
    """Make the results that the ledger lacks, and report all of them."""
    plan = make_plan(check(resolve_one_run(cfg)))
    refuse_unchecked_cell(plan)
    # a wrong value need not wait for it
    from rich.console import Console

    console = Console()
    results = kept_results(plan)
    plan = replace(plan, stages=tuple(results))
    from_ledger = [result is not None for result in results.values()]
    finished = [result for result in results.values() if result]
    # where all stages are finished torch, which takes seconds, is not even imported
    if all(from_ledger):
        if drift := describe_drift(plan.config, results):
            console.print(drift, soft_wrap=True, markup=False)
    else:
        # a disk that is too small, or a ledger that cannot be written, is refused
        # before torch is imported
        refuse_small_disk([plan])
        refuse_missing_trackio(plan.config)
        first = plan.stages[from_ledger.index(False)]
        StageFolder(plan.config.runs_dir, first).create()
        origin = this_origin(without_plus(HydraConfig.get().overrides.task))
        finished = run_stages(plan, console, origin)
    # only rank zero has results to report
    if finished:
        report_results(plan, finished, from_ledger, console)


def run_stages(plan: Plan, console: "Console", origin: Origin) -> list[Result]:
    """Return the results of all stages, made here or by one process per device.

    Empty where this process is one of several and not the one that reports.
    """
    ranks = rank_info()
    world_size = total_processes(plan)
    if world_size > 1 and (ranks is None or ranks.world_size < world_size):
        gc.enable()
        return launch_ranks(plan, ranks, world_size)

    if plan.config.trainer.kernels == "measured":
        keep_freed_memory()
    # these import torch, which takes seconds
    from unmask.training.execute import execute
    from unmask.training.failures import is_out_of_memory

    gc.enable()

    is_silent = ranks is not None and ranks.rank > 0
    try:
        if is_silent:
            console.quiet = True
        results = execute(plan, console, origin)
    except Exception as error:
        if not is_out_of_memory(error) or not may_restart(plan, ranks):
            raise
        if ranks:
            # the command that launched the ranks starts all of them again
            raise SystemExit(OUT_OF_MEMORY) from None
        restart_with_smaller_micro_batches(plan)
    # where our launcher started this process, the launching command reports
    return [] if is_silent or STARTED_VARIABLE in os.environ else results


def launch_ranks(plan: Plan, ranks: RankInfo | None, world_size: int) -> list[Result]:
    """Start this command once per device of this machine, wait, and read the results.

    ranks: this machine's rank, if torchrun or srun started one process per machine.
    Only the first machine returns results.
    """
    per_node = world_size // plan.config.trainer.nodes
    overrides = [*HydraConfig.get().overrides.task, f"trainer.devices={per_node}"]
    if any(override_key(each) == "trainer.precision" for each in overrides):
        # all ranks take the one that was settled here
        overrides.append(f"trainer.precision={plan.config.precision}")
    # the ranks have the limit too; here it makes this process requeue a job
    with time_limit(plan.config.trainer.max_minutes):
        code = launch(this_script(overrides), per_node, world_size, ranks)
    if code == OUT_OF_MEMORY:
        restart_with_smaller_micro_batches(plan)
    if code == PREEMPTED and ranks is None:
        print(INTERRUPTED, file=sys.stderr)
    if code:
        raise SystemExit(code)
    if ranks is not None and ranks.rank > 0:
        return []
    folders = [StageFolder(plan.config.runs_dir, spec) for spec in plan.stages]
    return [result for folder in folders if (result := folder.result())]


def may_restart(plan: Plan, ranks: RankInfo | None) -> bool:
    """Return whether the command may start again with smaller micro-batches: once.

    Of several ranks, only where our launcher started all of them: nobody else would
    start the others again.
    """
    trainer = plan.config.trainer
    starts_all = ranks is None or STARTED_VARIABLE in os.environ
    return starts_all and trainer.split == 1 and trainer.nodes == 1


def restart_with_smaller_micro_batches(plan: Plan) -> NoReturn:
    """Replace this process by the same command, with twice as many micro-batches.

    A new process, since nothing else frees a device's memory so well.
    """
    if received_signals:
        raise SystemExit(PREEMPTED)
    command = [sys.executable, *sys.argv, "trainer.split=2"]
    if limit := plan.config.trainer.max_minutes:
        minutes_left = limit - (time.monotonic() - STARTED_AT) / 60
        command.append(f"trainer.max_minutes={max(MIN_MINUTES, minutes_left)}")
    print(
        "the memory was full: going on with every batch in twice as many parts"
        " (trainer.split=2); sums then come in another order, and the last digits may"
        " differ",
        file=sys.stderr,
    )
    if isinstance(sys.stdout, PrefixedStream):
        # prefix_lines() took it out of the environment
        os.environ[PREFIX_VARIABLE] = sys.stdout.prefix
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def resolve_one_run(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved config; ConfigError for an experiment of many cells."""
    raw = resolve(cfg)
    for override in HydraConfig.get().overrides.task:
        if override in (f"experiment={ALL}", f"experiment={ABLATIONS}"):
            raise ConfigError(
                f"{override} is many tables, each of many cells: add -m, and"
                " scale=embedded, photos, cifar or paper"
            )
    if sweep := raw.get("sweep"):
        raise ConfigError(
            f"experiment={sweep['slug']} is a table of {len(sweep['cells'])} cells,"
            " each a run of its own: add -m, and scale=embedded, photos, cifar or paper"
        )
    return raw


def report_results(
    plan: Plan, results: list[Result], from_ledger: list[bool], console: "Console"
) -> None:
    """Print the table, write the pages, and the summary for a sweep's launcher."""
    from unmask.reports.run.tables import results_table

    console.print(results_table(results))
    # the results are there: a full or read-only disk is no reason to call them failed
    try:
        write_pages(plan, results, not all(from_ledger), console)
    except Exception as error:
        print(
            f"the page is not written: {user_message(error)}; the results are complete."
            " Once that is mended, the same command writes the page, and python"
            " src/runs.py page that of all runs",
            file=sys.stderr,
        )
    wandb = plan.config.logger.wandb
    if wandb and wandb.mode == "online" and "WANDB_SWEEP_ID" in os.environ:
        from unmask.dashboards.agent import report_to_agent

        report_to_agent(results, plan.config.to_dict(), wandb.finish_seconds)
    if summary := os.environ.get(SUMMARY_VARIABLE):
        rows = [
            {**result, "from_ledger": is_old}
            for result, is_old in zip(results, from_ledger, strict=True)
        ]
        write_text(Path(summary), json.dumps(rows))


def write_pages(
    plan: Plan, results: list[Result], is_new: bool, console: "Console"
) -> None:
    """Write the page of the run, and of all runs where its results are new."""
    from unmask.reports.run.page import write_page

    typed = without_plus(HydraConfig.get().overrides.task)
    overrides = " ".join(map(shlex.quote, typed))
    command = f"python src/train.py {overrides}".strip()
    page = write_page(plan, results, command, refresh=is_new)
    console.print(
        f"The page with curves and pictures: {page.resolve()}", soft_wrap=True
    )
    # the launcher of a sweep does it for all cells
    if is_new and SWEEP_VARIABLE not in os.environ:
        from unmask.reports.ledger.pages import write_index
        from unmask.stages.records import read_ledger

        index = write_index(read_ledger(plan.config.runs_dir))
        console.print(f"All runs: {index.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    run_hydra(run)
