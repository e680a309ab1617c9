"""Make a training step again that was not finite."""

from rich.console import Console

from unmask.config.section import PathText, Section


class Replay(Section):
    folder: PathText


def run(arguments: Replay) -> bool:
    """Return whether the replayed step is the same as the recorded one.

    Raises ConfigError where there is no record, a damaged one, or its images are gone.
    """
    from unmask.commands.replay.replay import replay

    return replay(arguments.folder, Console())
