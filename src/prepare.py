"""Copy images into shards, raw pixels or a folder, smaller if wished. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.prepare import run
from unmask.commands.prepare.arguments import Prepare

if __name__ == "__main__":
    command(Prepare, run)
