"""One file of weights into another, and the table that says what became of every tensor."""

from pathlib import Path

from rich.table import Table

from unmask.config.arguments import Convert
from unmask.config.checks import ConfigError
from unmask.exchange.geometry import Hints
from unmask.exchange.read import read
from unmask.exchange.summary import described
from unmask.exchange.write import refuse_existing, write


def convert(given: Convert) -> Table:
    """Raises ConfigError for a source that is not there or a target that is, ValueError for unusable weights."""
    source, target = Path(given.source), Path(given.to)
    if not source.exists():
        raise ConfigError(f"from={source}: no such file or folder")
    try:
        refuse_existing(target, given.layout, given.overwrite)
    except ValueError as error:
        raise ConfigError(f"to={error}") from None
    weights, reading = read(source, Hints(given.heads, given.decoder_heads, given.grid))
    writing = write(weights, target, given.layout, given.overwrite)
    return described(
        weights, {f"read {weights.layout}": reading, f"write {given.layout}": writing}
    )
