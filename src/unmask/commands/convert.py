"""Convert weights to another layout, with a table of what became of each tensor."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from unmask.commands.foreign_weights import check_foreign
from unmask.config.checks import ConfigError
from unmask.config.section import Count, PathText, Section
from unmask.config.stage_paths import StagePath
from unmask.exchange.geometry import Hints
from unmask.exchange.weight_files import check_target

if TYPE_CHECKING:
    from unmask.exchange.facts import Facts


class Convert(Section):
    # users type from=, which is a keyword of Python
    source: StagePath = Field(alias="from")
    to: PathText
    layout: Literal["timm", "hf", "official", "safetensors"]
    heads: Count | None
    decoder_heads: Count | None
    grid: tuple[Count, Count] | None
    weights: str | None
    target: Literal["pixel", "pixel_norm"] | None
    license: str | None
    overwrite: bool


def run(arguments: Convert) -> Table:
    """Convert; print and return what became of each tensor.

    Raises ConfigError for a source without weights or a target that exists, ValueError
    for values that are no weights.
    """
    source = Path(arguments.source)
    target = Path(arguments.to)
    hints = Hints(arguments.heads, arguments.decoder_heads, arguments.grid)
    # checked first: reading a large file takes minutes, and importing torch seconds
    check_foreign("from", source, hints, arguments.weights)
    try:
        check_target(target, arguments.layout, arguments.overwrite)
    except ValueError as error:
        raise ConfigError(f"to={error}") from None

    from unmask.exchange.read_weights import read_weights
    from unmask.exchange.summary import report_table
    from unmask.exchange.write import write_weights

    weights, read_report = read_weights(source, hints, choice=arguments.weights)
    weights = replace(weights, facts=_typed_facts(arguments, weights.facts))
    write_report = write_weights(weights, target, arguments.layout, arguments.overwrite)
    steps = {
        f"read {weights.layout}": read_report,
        f"write {arguments.layout}": write_report,
    }
    table = report_table(weights, steps)
    Console().print(table)
    Console().print(f"{arguments.layout}: {target}", soft_wrap=True, markup=False)
    Console().print(write_report.load, soft_wrap=True, markup=False)
    return table


def _typed_facts(arguments: Convert, facts: "Facts") -> "Facts":
    """Return what the file says, with what was typed in its place."""
    return replace(
        facts,
        target=arguments.target or facts.target,
        license=arguments.license or facts.license,
    )
