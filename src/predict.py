"""Print the most probable classes of any images, by any classifier. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.commands.predict import run
from unmask.commands.predict.arguments import Predict

if __name__ == "__main__":
    command(Predict, run)
