"""Convert weights: official MAE, Hugging Face, timm, this project. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.convert import Convert, run

if __name__ == "__main__":
    command(Convert, run)
