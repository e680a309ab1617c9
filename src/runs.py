"""Find, compare, watch, show and remove runs: src/runs.py list. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from functools import partial

from unmask.commands.cli import run_typed
from unmask.commands.runs import Runs, run
from unmask.reports.ledger.pages import write_pages

if __name__ == "__main__":
    run_typed(Runs, partial(run, page=write_pages))
