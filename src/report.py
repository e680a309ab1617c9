"""Report everything finished so far beside the paper. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.reports.paper.arguments import Report
from unmask.reports.paper.command import run

if __name__ == "__main__":
    command(Report, run, takes_folders=True)
