"""Print the most probable classes of any images, by any classifier. See --help."""

from unmask.commands.cli import command
from unmask.commands.predict import run
from unmask.commands.predict.arguments import Predict

if __name__ == "__main__":
    command(Predict, run)
