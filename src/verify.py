"""Proves on your own config that training is exact: interrupted, continued, shared out among processes. See --help."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from hydra_plugins.composition import Composer
from unmask.commands.cli import MULTIRUN, exit_on_user_error, guarded, mark_started
from unmask.commands.verify.interruptions import trained
from unmask.config.arguments import Verify, VerifyArguments, arguments
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import ABLATIONS, ALL, CONF
from unmask.distributed.ranks import rank_info
from unmask.stages.devices import processes
from unmask.stages.plan import Plan, make_plan

MEASURING = ("knn", "robustness")
GROUPS = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
OWN_KEYS = [f"verify.{key}" for key in Verify.model_fields]
# of a run: here all happens in the scratch space, and quietly
ASIDE = ("runs_dir", "wait", "logger", "watch.trace")
EVERY = 3  # steps between checkpoints, unless the command says so: a kill loses some
HELP = """\
python src/verify.py <what train.py takes> [verify.steps=30 ...]

Trains the first steps of every stage that is trained, with the learning rates of the whole run, in a scratch ledger:
once undisturbed, once killed (kill -9 of the command, of one of its processes, SIGTERM; in mid-epoch, at an epoch's
last batch, right after it) and continued by the same command each time. Then it compares, bit by bit: each step's
samples, pixels, masks and loss, the final weights and moments, the journal. Stages that only measure are left out.

  verify.steps=30           of each stage; more than an epoch has, and its end is tried, too
  verify.kills=4            interruptions of each stage; each costs a start of the command
  verify.processes=[1,2,4]  also trained by so many processes: the same samples, pixels and masks at each step, losses
                            and weights within verify.loss_bound=1e-5 and verify.weights_bound=1e-4 (relative)
  verify.minutes=15         a run that makes no step for so long is ended
  verify.folder=            where the scratch space lies (else among temporary files); it is removed unless a
                            difference was found

runs_dir, logger and wait of the run are set aside. Exit codes: 0 exact, 1 not exact or an error, 2 bad config,
75 asked to leave.
"""


def run() -> None:
    """Exits with 0 exact, 1 not exact, 2 bad config, 75 asked to leave."""
    typed = sys.argv[1:]
    if {"--help", "-h"} & set(typed):
        print(HELP, end="")
        return
    own = [argument for argument in typed if argument.lstrip("+").startswith("verify.")]
    mark_started()
    with exit_on_user_error():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            given = asked(own)
            overrides, plan = prepared(
                given, [argument for argument in typed if argument not in own]
            )
        exact = verified(given, plan, overrides)
    if not exact:
        raise SystemExit(1)


def asked(own: Sequence[str]) -> Verify:
    """Its own arguments. Raises ConfigError."""
    try:
        raw = OmegaConf.to_container(
            compose("verify", overrides=list(own)), resolve=True
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    return arguments(VerifyArguments, raw).verify


def prepared(given: Verify, typed: list[str]) -> tuple[list[str], Plan]:
    """The overrides of the run that is cut, but for its ledger, and its plan. Raises ConfigError."""
    refuse(typed)
    composer = Composer()
    kept = [
        argument
        for argument in typed
        if argument.lstrip("+").partition("=")[0] not in ASIDE
    ]
    kept = [
        argument for argument in kept if not argument.lstrip("+~").startswith("logger")
    ]
    whole = make_plan(check(single(composer, kept)))
    stages = [spec.kind for spec in trained(whole)]
    if not stages:
        raise ConfigError(
            "stages: none of these is trained; add one, such as stages=[pretrain]"
        )
    often = (
        []
        if any(o.startswith("checkpoint.every_steps=") for o in kept)
        else [f"checkpoint.every_steps={EVERY}"]
    )
    own = [
        f"stages=[{','.join(dict.fromkeys(stages))}]",
        f"stop_after={given.steps}",
        "watch.trace=true",
        *often,
    ]
    overrides = [*kept, *own]
    plan = make_plan(check(composer(overrides)), whole.listing)
    if plan.config.trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes = {plan.config.trainer.nodes}: verify works on one machine;"
            " leave it out"
        )
    for more in ([], *([f"trainer.devices={count}"] for count in given.processes)):
        processes(make_plan(check(composer([*overrides, *more])), whole.listing))
    if given.folder and not Path(given.folder).is_dir():
        raise ConfigError(
            f"verify.folder = {given.folder}: no such folder; make it, or leave it out"
        )
    if left := [kind for kind in whole.config.stages if kind in MEASURING]:
        print(f"left out, since they only measure: {', '.join(left)}")
    return overrides, plan


def refuse(typed: list[str]) -> None:
    """What makes no run, or not one that it starts. Raises ConfigError."""
    for argument in typed:
        key = argument.lstrip("+").partition("=")[0]
        if argument in MULTIRUN or key.startswith("hydra."):
            raise ConfigError(
                f"{argument}: verify takes one run, as python src/train.py does; leave"
                " it out"
            )
        if key == "stop_after":
            raise ConfigError(f"{argument}: verify.steps says how many steps are made")
        if argument.startswith("-"):
            raise ConfigError(
                f"{argument}: there is no such option; --help lists what there is"
            )
    try:
        sweeps = [
            o.input_line
            for o in OverridesParser.create().parse_overrides(typed)
            if o.is_sweep_override()
        ]
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    if many := [
        *sweeps,
        *({f"experiment={ALL}", f"experiment={ABLATIONS}"} & set(typed)),
    ]:
        raise ConfigError(f"{many[0]} is many runs; verify takes one")
    if rank_info() is not None:
        raise ConfigError(
            "verify starts the processes itself; start it without torchrun or srun"
        )


def single(composer: Composer, typed: list[str]) -> dict:
    """The config of one run. Raises ConfigError for a table of many."""
    raw = composer(typed)
    if sweep := raw.get("sweep"):
        raise ConfigError(
            f"experiment={sweep['slug']} is a table of {len(sweep['cells'])} runs;"
            " verify takes one"
        )
    return raw


def verified(given: Verify, plan: Plan, overrides: list[str]) -> bool:
    """Leaves nothing behind, unless a difference was found."""
    from unmask.commands.verify.verify import Verification

    scratch = Path(
        tempfile.mkdtemp(prefix="unmask-verify-", dir=given.folder)
    ).resolve()
    kept = False
    try:
        kept = not Verification(given, plan, overrides, scratch, Console())()
    except SystemExit:
        print(
            "asked to leave: what was started is ended, nothing is kept",
            file=sys.stderr,
        )
        raise
    finally:
        if not kept:
            shutil.rmtree(scratch, ignore_errors=True)
    return not kept


if __name__ == "__main__":
    guarded(run, [*GROUPS, *OWN_KEYS])
