"""Make a non-finite training step again: src/replay.py <folder>. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.replay import Replay, run

if __name__ == "__main__":
    command(Replay, run, positional="folder")
