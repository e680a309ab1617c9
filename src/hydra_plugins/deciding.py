"""Decide the claims of the paper's tables by rounds of a sweep, for `decide=true`."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unmask.config.checks import ConfigError
from unmask.config.deciding import Decide
from unmask.config.experiments import (
    SMALLEST_SCALE,
    Cell,
    expand_experiments,
    is_sweep,
    read_scale,
)
from unmask.config.schema import Scale

if TYPE_CHECKING:
    from unmask.stages.plan import Plan

# of one cell, as typed
Overrides = tuple[str, ...]


class Question(NamedTuple):
    """The tables and the scale that were typed, and the overrides of every cell."""

    slugs: list[str]
    scale: Scale
    more: Overrides


def read_question(values: dict[str, str], others: Sequence[Overrides]) -> Question:
    """Return what is to be decided.

    values: by key, as typed. others: the combinations of all other overrides. Raises
    ConfigError where that is no table at one scale, or seeds are typed.
    """
    experiment = values.get("experiment", "")
    if not is_sweep(experiment):
        raise ConfigError(
            f"decide=true with experiment={experiment or 'null'}: only tables have"
            " claims; type experiment=mask_ratio, ablations, or a question of your own"
            " (docs/questions.md)"
        )
    if "seed" in values:
        raise ConfigError(
            f"decide=true with seed={values['seed']}: it chooses the seeds itself, from"
            " 0 on; leave seed= out, seeds_max= limits them"
        )
    scale = values.get("scale", SMALLEST_SCALE)
    if "," in scale or len(others) != 1:
        raise ConfigError(
            "decide=true: it decides claims at one scale, with one value of every other"
            " key; type one, and a command for each of the others"
        )
    return Question(expand_experiments(experiment), read_scale(scale), others[0])


def decide(
    question: Question,
    wanted: Decide,
    plan: Callable[[Sequence[Cell]], dict[Overrides, "Plan"]],
    launch: Callable[[Sequence[Cell]], object],
    skip_kept: bool,
) -> None:
    """Run the rounds, and print the report where none of them has."""
    # pandas takes a second, and only this needs it; the reporter imports the sweeper
    from hydra_plugins.reporting import Reporter
    from unmask.reports.paper.campaign import Campaign, Limits
    from unmask.reports.paper.result_rows import read_kept_results

    has_run = []

    def launch_round(cells: Sequence[Cell]) -> None:
        launch(cells)
        has_run.append(len(cells))

    campaign = Campaign(
        question.slugs,
        question.scale,
        question.more,
        Limits(wanted.seeds_max or question.scale.looks[-1], wanted.hours),
        plan,
        launch_round,
        read_kept_results() if skip_kept else {},
    )
    campaign.run()
    if not has_run:
        Reporter(sys.argv[1:], campaign.runs_dir, report=False).finish(True)
