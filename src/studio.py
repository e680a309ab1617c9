"""Open a page that shows what an autoencoder fills in and attends to. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.studio import Studio, run

if __name__ == "__main__":
    command(Studio, run)
