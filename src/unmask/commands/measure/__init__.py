"""Measure the training images of a run's config, once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unmask.commands.composition import Composer
from unmask.config.checks import check
from unmask.config.section import Count, PathText, Section
from unmask.stages.plan import make_plan

if TYPE_CHECKING:
    from unmask.commands.measure.statistics import PixelStatistics


class Measure(Section):
    images: Count | None
    out: PathText | None
    threads: Count | None


def run(arguments: Measure, overrides: Sequence[str]) -> "PixelStatistics":
    """Measure the training images and write what data.statistics= takes.

    Raises ValueError where nothing can be read.
    """
    raw = Composer()(overrides)
    # a stage that needs no labels: images without any are measured, too
    raw["stages"] = ["pretrain"]
    plan = make_plan(check(raw), needs_range=False)
    from unmask.commands.measure.statistics import (
        describe_statistics,
        measure,
        write_statistics,
    )

    console = Console()
    statistics = measure(plan, arguments.images, arguments.threads, console)
    out = Path(arguments.out) if arguments.out else None
    written = write_statistics(statistics, out, plan)
    console.print(
        describe_statistics(statistics), highlight=False, soft_wrap=True, markup=False
    )
    use_range = " data.range=measured" if statistics.ranges else ""
    kept = f"kept: data.statistics={written}{use_range}"
    console.print(kept, soft_wrap=True, markup=False)
    return statistics
