"""Measure mean and std of your images, and which cannot be read. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.measure import Measure, run

if __name__ == "__main__":
    command(Measure, run, takes_run=True)
