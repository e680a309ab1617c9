"""Write the features of any images, by any encoder. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.embed import run
from unmask.commands.embed.arguments import Embed

if __name__ == "__main__":
    command(Embed, run)
