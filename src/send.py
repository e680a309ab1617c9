"""Send metrics of finished stages to W&B: src/send.py <folder> ... See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.send import Send, run

if __name__ == "__main__":
    command(Send, run, positional="folders")
