"""Convert weights to another layout, with a table of what became of each tensor."""

from pathlib import Path

from rich.table import Table

from unmask.config.arguments import Convert
from unmask.config.checks import ConfigError
from unmask.exchange.geometry import Hints
from unmask.exchange.read_weights import read_weights
from unmask.exchange.summary import report_table
from unmask.exchange.write import check_target, write_weights


def convert(arguments: Convert) -> Table:
    """Read the weights, write them in the wanted layout, and report each tensor.

    Raises ConfigError for a source that is missing or a target that exists, ValueError
    for unusable weights.
    """
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
    return report_table(weights, steps)
