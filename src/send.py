"""Send metrics of finished stages to W&B: src/send.py <folder> ... See --help."""

from unmask.commands.cli import command
from unmask.commands.send import Send, run

if __name__ == "__main__":
    command(Send, run, positional="folders")
