"""Make W&B's workspace and reports of the paper's tables. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from unmask.commands.cli import command
from unmask.reports.dashboard.arguments import Dashboard
from unmask.reports.dashboard.command import make_dashboards

if __name__ == "__main__":
    command(Dashboard, make_dashboards)
