"""Convert images into containers."""

from rich.console import Console

from unmask.commands.prepare.arguments import Prepare


def run(arguments: Prepare) -> None:
    """Prepare, going on where an earlier call ended."""
    from unmask.commands.prepare.prepare import prepare

    try:
        prepare(arguments, Console())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; the same command goes on after what is done"
        ) from None
