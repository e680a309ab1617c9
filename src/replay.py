"""Make a non-finite training step again: src/replay.py <folder>. See --help."""

from unmask.commands.cli import command
from unmask.commands.replay import Replay, run

if __name__ == "__main__":
    command(Replay, run, positional="folder")
