"""Make a training step again that was not finite."""

from rich.console import Console

from unmask.config.section import Section
from unmask.config.stage_paths import StagePath


class Replay(Section):
    folder: StagePath


def run(arguments: Replay) -> bool:
    """Return whether the replayed step is the same as the recorded one.

    Raises ConfigError where there is no record, a damaged one, or its images are gone.
    """
    from unmask.commands.replay.replay import replay

    return replay(arguments.folder, Console())
