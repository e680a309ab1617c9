"""Draw original, masked image and reconstruction, as one PNG. See --help."""

from unmask.commands.cli import command
from unmask.commands.reconstruct import Reconstruct, run

if __name__ == "__main__":
    command(Reconstruct, run)
