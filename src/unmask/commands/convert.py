"""Convert weights to another layout, with a table of what became of each tensor."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from unmask.config.checks import ConfigError
from unmask.config.section import Count, Section


class Convert(Section):
    # users type from=, which is a keyword of Python
    source: str = Field(alias="from")
    to: str
    layout: Literal["timm", "hf", "official", "safetensors"]
    heads: Count | None
    decoder_heads: Count | None
    grid: tuple[Count, Count] | None
    weights: str | None
    license: str | None
    overwrite: bool


def run(arguments: Convert) -> Table:
    """Convert; print and return what became of each tensor.

    Raises ConfigError for a source that is missing or a target that exists, ValueError
    for unusable weights.
    """
    from unmask.exchange.geometry import Hints
    from unmask.exchange.read_weights import read_weights
    from unmask.exchange.summary import report_table
    from unmask.exchange.write import check_target, write_weights

    source = Path(arguments.source)
    target = Path(arguments.to)
    if not source.exists():
        raise ConfigError(f"from={source}: no such file or folder")
    # checked first: reading a large file takes minutes
    try:
        check_target(target, arguments.layout, arguments.overwrite)
    except ValueError as error:
        raise ConfigError(f"to={error}") from None
    hints = Hints(arguments.heads, arguments.decoder_heads, arguments.grid)
    weights, read_report = read_weights(source, hints)
    write_report = write_weights(weights, target, arguments.layout, arguments.overwrite)
    steps = {
        f"read {weights.layout}": read_report,
        f"write {arguments.layout}": write_report,
    }
    table = report_table(weights, steps)
    Console().print(table)
    Console().print(f"{arguments.layout}: {target}", soft_wrap=True)
    return table
