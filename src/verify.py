"""Prove on your own config that training is exact when interrupted. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from unmask.commands.cli import MULTIRUN, command
from unmask.commands.composition import Composer, hydra_errors_as_config_errors
from unmask.commands.verify.arguments import Settings, Verify
from unmask.commands.verify.interruptions import trained_stages
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import ABLATIONS, ALL
from unmask.config.overrides import override_key
from unmask.config.recipes import LABELLED_STAGES, makes_steps
from unmask.distributed.ranks import rank_info
from unmask.stages.devices import total_processes
from unmask.stages.plan import Plan, make_plan

# keys of the run that are left out: it happens in a scratch folder, without dashboards
IGNORED_KEYS = ("runs_dir", "wait", "logger", "watch.trace")
# steps between checkpoints by default: a kill then loses some steps
CHECKPOINT_EVERY = 3


def run(arguments: Verify, overrides: Sequence[str]) -> bool:
    """Return whether one run is exact; raise SystemExit(75) where asked to stop."""
    settings = arguments.verify
    run_overrides, plan = plan_run(settings, overrides)
    return verify(settings, plan, run_overrides)


def plan_run(arguments: Settings, typed: Sequence[str]) -> tuple[list[str], Plan]:
    """Return overrides and plan of the run to interrupt, but for its runs_dir.

    Raises ConfigError for what verify cannot run.
    """
    refuse_unsuitable(typed)
    composer = Composer()
    kept = [argument for argument in typed if not _is_ignored(argument)]
    raw = composer(kept)
    if sweep := raw.get("sweep"):
        raise ConfigError(
            f"experiment={sweep['slug']} is a table of {len(sweep['cells'])} runs;"
            " verify takes one"
        )
    whole = make_plan(check(raw))
    stages = dict.fromkeys(spec.kind for spec in trained_stages(whole))
    if not stages:
        raise ConfigError(
            f"stages = {list(whole.config.stages)}: none of these is trained; add one,"
            " such as stages=[pretrain]"
        )
    # in the scratch folder's ledger no prefix would be found
    kept = [
        f"init_from='{whole.config.init_from}'"
        if override_key(argument) == "init_from" and whole.config.init_from
        else argument
        for argument in kept
    ]
    overrides = [
        *kept,
        f"stages=[{','.join(stages)}]",
        f"stop_after={arguments.steps}",
        "watch.trace=true",
    ]
    if not any(argument.startswith("checkpoint.every_steps=") for argument in kept):
        overrides.append(f"checkpoint.every_steps={CHECKPOINT_EVERY}")
    plan = make_plan(check(composer(overrides)), whole.listing)
    if plan.config.trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes = {plan.config.trainer.nodes}: verify works on one machine;"
            " leave it out"
        )
    # refuses batches that do not split evenly among so many processes
    total_processes(plan)
    for count in arguments.processes:
        config = check(composer([*overrides, f"trainer.devices={count}"]))
        total_processes(make_plan(config, whole.listing))
    if arguments.folder and not Path(arguments.folder).is_dir():
        raise ConfigError(
            f"verify.folder = {arguments.folder}: no such folder; make it, or leave it"
            " out"
        )
    left_out = [
        kind
        for kind in whole.config.stages
        if kind in LABELLED_STAGES and not makes_steps(whole.config, kind)
    ]
    if left_out:
        print(f"left out, since no steps train them: {', '.join(left_out)}")
    return overrides, plan


def _is_ignored(argument: str) -> bool:
    key = override_key(argument)
    # logger=wandb, logger.wandb.mode=offline, ~logger
    return key in IGNORED_KEYS or key.startswith("logger")


def refuse_unsuitable(typed: Sequence[str]) -> None:
    """Raise ConfigError for sweeps and keys that verify sets itself."""
    for argument in typed:
        if argument in MULTIRUN:
            raise ConfigError(
                f"{argument}: verify takes one run, as python src/train.py does; leave"
                " it out"
            )
        if override_key(argument) == "stop_after":
            raise ConfigError(f"{argument}: verify.steps says how many steps are made")
    with hydra_errors_as_config_errors():
        parsed = OverridesParser.create().parse_overrides(list(typed))
    sweeps = [str(o.input_line) for o in parsed if o.is_sweep_override()]
    tables = {f"experiment={ALL}", f"experiment={ABLATIONS}"} & set(typed)
    if many := [*sweeps, *tables]:
        raise ConfigError(f"{many[0]} is many runs; verify takes one")
    if ranks := rank_info():
        raise ConfigError(
            f"verify was started {ranks.world_size} times at once; start it without"
            " torchrun or srun: it starts the processes itself"
        )


def verify(arguments: Settings, plan: Plan, overrides: list[str]) -> bool:
    """Return whether training was exact; keep the scratch folder only where not."""
    # imports torch
    from unmask.commands.verify.verify import Verification

    made = tempfile.mkdtemp(prefix="unmask-verify-", dir=arguments.folder)
    scratch = Path(made).resolve()
    is_exact = True
    try:
        is_exact = Verification(arguments, plan, overrides, scratch, Console())()
    except SystemExit:
        print(
            "asked to stop: the processes that were started are ended, nothing is kept",
            file=sys.stderr,
        )
        raise
    finally:
        if is_exact:
            shutil.rmtree(scratch, ignore_errors=True)
    return is_exact


if __name__ == "__main__":
    command(Verify, run, takes_run=True)
