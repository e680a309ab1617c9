"""Find, compare, watch and remove runs: src/runs.py list. See --help."""

from unmask.commands.cli import run_typed
from unmask.commands.runs import Runs, run

if __name__ == "__main__":
    run_typed(Runs, run)
