"""One precision for all cells of a sweep, where trainer.precision=auto is typed."""

from collections.abc import Sequence

from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check
from unmask.config.overrides import override_key
from unmask.stages.precision import settle_precision

KEY = "trainer.precision"


def settle_typed_precision(typed: list[str], first_cell: Sequence[str]) -> list[str]:
    """Return the overrides with the precision that is fastest for the first cell."""
    config = settle_precision(check(Composer()(first_cell)))
    return [
        f"{KEY}={config.precision}" if override_key(each) == KEY else each
        for each in typed
    ]


def asks_for_auto(typed: Sequence[str]) -> bool:
    """Return whether trainer.precision=auto is typed; ConfigError in a list."""
    values = [each.partition("=")[2] for each in typed if override_key(each) == KEY]
    for value in values:
        if "auto" in value.split(","):
            if value == "auto":
                return True
            raise ConfigError(
                f"{KEY}={value}: auto is one precision for all cells; leave it out of"
                " the list"
            )
    return False
