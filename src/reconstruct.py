"""Draw original, masked image and reconstruction, as one PNG. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.reconstruct import Reconstruct, run

if __name__ == "__main__":
    command(Reconstruct, run)
