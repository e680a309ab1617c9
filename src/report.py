"""Report everything finished so far beside the paper. See --help."""

from unmask.commands.cli import command
from unmask.reports.paper.arguments import Report
from unmask.reports.paper.command import run

if __name__ == "__main__":
    command(Report, run)
