"""One run (its stages in order), or with -m a sweep of runs. See --help."""

import os
import signal

LEFT = "interrupted; the same command goes on from the last checkpoint"


def leave(*_: object) -> None:
    """Until there is something to save: in the middle of an import an exception is lost, or ends in a traceback."""
    os.write(2, f"{LEFT}\n".encode())
    os._exit(75)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from unmask.commands.cli import (
    EXPLAINED,
    CellError,
    config_flags,
    fail,
    guarded,
    mark_started,
    user_message,
)
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import ABLATIONS, ALL
from unmask.distributed.launcher import STARTED, Launcher
from unmask.distributed.line_prefix import PREFIX, PrefixedStream, prefix_lines
from unmask.distributed.processes import (
    MEMORY_FULL,
    PREEMPTED,
    SUMMARY,
    received_signals,
    time_limit,
)
from unmask.distributed.ranks import RankInfo, rank_info
from unmask.distributed.slurm import requeue
from unmask.stages.devices import processes
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan, make_plan, refuse_change

CONF = Path(__file__).parent.parent / "conf"
BEGUN, MOMENT = time.monotonic(), 0.01  # minutes
GROUPS = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(cfg: DictConfig) -> None:
    """Check, plan, execute, report; exits with 0 done, 1 error, 2 bad config, 75 preempted."""
    mark_started()
    console, leave = Console(), fail
    # a launcher that runs cells as functions; ours starts commands
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        leave = raise_from_cell
    try:
        plan = make_plan(check(plain(cfg)))
        refuse_change(plan)
        folders = [StageFolder(plan.config.runs_dir, spec) for spec in plan.stages]
        finished = [folder.result() for folder in folders]
        results = [result for result in finished if result]
        # else nothing to do, and torch need not be imported
        if len(results) < len(plan.stages):
            # a ledger that cannot be written is told now: importing torch takes seconds
            next(
                f for f, result in zip(folders, finished, strict=True) if not result
            ).open()
            results = work(plan, console)
        if results:
            report(plan, results, [bool(result) for result in finished], console)
    except ConfigError as error:
        leave(str(error), 2)
    except Exception as error:
        if not isinstance(error, EXPLAINED) and not hasattr(error, "__notes__"):
            raise  # outside of any stage: nothing has kept its traceback
        leave(user_message(error), 1)
    except SystemExit as leaving:
        if leaving.code == PREEMPTED:
            requeue(cfg.trainer.requeue)
        raise
    except KeyboardInterrupt:
        fail(LEFT, PREEMPTED)


def work(plan: Plan, console: Console) -> list[dict[str, Any]]:
    """The results of all stages, from this process or from those that it starts, one a device.

    Nothing where this process is one of those; the first one of torchrun's or srun's tells the results.
    """
    started, total = rank_info(), processes(plan)
    if total > 1 and (started is None or started.size < total):
        each = total // plan.config.trainer.nodes
        overrides = [
            *config_flags(sys.argv[1:]),
            *HydraConfig.get().overrides.task,
            f"trainer.devices={each}",
        ]
        # of those started, too: who is asked here puts a job back
        with time_limit(plan.config.trainer.max_minutes):
            code = Launcher(overrides, each, total, started)()
        # the other cells go on
        if HydraConfig.get().mode == RunMode.MULTIRUN and code not in (0, PREEMPTED):
            full = (
                "; their device's memory is full: set a smaller trainer.micro_batch"
                if code == MEMORY_FULL
                else ""
            )
            raise CellError(f"the processes of this run ended with {code}{full}")
        if code == MEMORY_FULL:
            start_with_smaller_parts(plan)
        if code == PREEMPTED and started is None:
            print(LEFT, file=sys.stderr)
        if code:
            raise SystemExit(code)
        done = [
            StageFolder(plan.config.runs_dir, spec).result() for spec in plan.stages
        ]
        return (
            [result for result in done if result]
            if started is None or started.rank == 0
            else []
        )
    from unmask.training.execute import execute, memory_full

    follows = started is not None and started.rank > 0
    try:
        results = execute(plan, Console(quiet=True) if follows else console)
    except Exception as error:
        if not memory_full(error) or not can_start_again(plan, started):
            raise
        if started:  # who started us starts all of us again
            raise SystemExit(MEMORY_FULL) from None
        start_with_smaller_parts(plan)
    return [] if follows or STARTED in os.environ else results


def can_start_again(plan: Plan, started: RankInfo | None) -> bool:
    """Once, where this process is a command of its own, or was started with its likes by one on this machine."""
    alone = (
        HydraConfig.get().mode == RunMode.RUN
        if started is None
        else STARTED in os.environ
    )
    return alone and plan.config.trainer.split == 1 and plan.config.trainer.nodes == 1


def start_with_smaller_parts(plan: Plan) -> NoReturn:
    """Become the same command with every batch in twice as many parts; nothing else frees a device's memory so well."""
    if received_signals:
        raise SystemExit(PREEMPTED)
    limit = plan.config.trainer.max_minutes
    left = (
        [f"trainer.max_minutes={max(MOMENT, limit - (time.monotonic() - BEGUN) / 60)}"]
        if limit
        else []
    )
    print(
        "the memory was full: going on with every batch in twice as many parts"
        " (trainer.split=2); sums then come in another order, and the last digits may"
        " differ",
        file=sys.stderr,
    )
    if isinstance(sys.stdout, PrefixedStream):
        os.environ[PREFIX] = sys.stdout.mark
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.argv, "trainer.split=2", *left])


def raise_from_cell(message: str, code: int) -> NoReturn:
    """Hydra keeps a cell's exception and runs the others; SystemExit would end them all."""
    raise CellError(message)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers; an interpolation that leads nowhere is a fault of the config."""
    try:
        raw = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    assert isinstance(raw, dict)
    for override in HydraConfig.get().overrides.task:
        if override in (f"experiment={ALL}", f"experiment={ABLATIONS}"):
            raise ConfigError(
                f"{override} is many tables, each of many cells: add -m, and"
                " scale=embedded, cifar or paper"
            )
    if sweep := raw.get("sweep"):
        raise ConfigError(
            f"experiment={sweep['slug']} is a table of {len(sweep['cells'])} cells,"
            " each a run of its own: add -m, and scale=embedded, cifar or paper"
        )
    return {str(key): value for key, value in raw.items()}


def report(
    plan: Plan, results: list[dict[str, Any]], from_ledger: list[bool], console: Console
) -> None:
    """The table, the page, and a word to the sweep's launcher where there is one."""
    from unmask.reports.run.page import write_page
    from unmask.reports.run.tables import results_table

    console.print(results_table(results))
    overrides = " ".join(
        shlex.quote(override) for override in HydraConfig.get().overrides.task
    )
    page = write_page(
        plan,
        results,
        f"python src/train.py {overrides}".strip(),
        refresh=not all(from_ledger),
    )
    console.print(
        f"The page with curves and pictures: {page.resolve()}", soft_wrap=True
    )
    if summary := os.environ.get(SUMMARY):
        rows = [
            {**r, "from_ledger": f} for r, f in zip(results, from_ledger, strict=True)
        ]
        Path(summary).write_text(json.dumps(rows))


if __name__ == "__main__":
    prefix_lines()
    guarded(run, GROUPS)
