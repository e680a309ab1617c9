"""Measure mean and std of your images, and which cannot be read. See --help."""

import sys
from pathlib import Path

from hydra import initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from hydra_plugins.composition import Composer, hydra_errors_as_config_errors
from unmask.commands.cli import exit_on_user_error, mark_started, run_command
from unmask.config.arguments import Measure, parse_arguments
from unmask.config.checks import check
from unmask.config.experiments import CONF
from unmask.stages.plan import make_plan

DEFAULTS = CONF / "measure.yaml"
GROUPS = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]


def run() -> None:
    """Measure the training images and write what data.statistics= takes.

    Exits with 0 measured, 1 nothing could be read, 2 bad config.
    """
    typed = sys.argv[1:]
    own = [
        argument
        for argument in typed
        if argument.partition("=")[0] in Measure.model_fields
    ]
    others = [argument for argument in typed if argument not in own]
    mark_started()
    with exit_on_user_error():
        merged = OmegaConf.merge(OmegaConf.load(DEFAULTS), OmegaConf.from_dotlist(own))
        arguments = parse_arguments(Measure, OmegaConf.to_container(merged))
        with (
            hydra_errors_as_config_errors(),
            initialize_config_dir(str(CONF), version_base="1.3"),
        ):
            raw = Composer()(others)
        # a stage that needs no labels: images without any are measured, too
        raw["stages"] = ["pretrain"]
        plan = make_plan(check(raw))
        # imports torch
        from unmask.commands.measure import (
            describe_statistics,
            measure,
            write_statistics,
        )

        console = Console()
        statistics = measure(plan, arguments.images, arguments.threads, console)
        out = Path(arguments.out).expanduser() if arguments.out else None
        written = write_statistics(statistics, out, plan)
        console.print(
            describe_statistics(statistics),
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        console.print(f"kept: data.statistics={written}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(run, [*GROUPS, *Measure.model_fields])
