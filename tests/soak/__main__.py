"""python -m soak --minutes 20 --seed 0; exits with 0 where nothing is wrong, else 1 and keeps the folder."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from soak.driver import Pace, Soak
from soak.faults import FAULTS
from soak.report import show
from soak.sweep import CELLS

LONG = 20.0  # minutes in which every kind of fault has its turn


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A sweep under random faults must end as an undisturbed one."
    )
    parser.add_argument(
        "--minutes", type=float, default=LONG, help="how long faults come"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="of the faults and of the sweep; drawn unless given",
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument(
        "--faults",
        nargs="+",
        choices=list(FAULTS),
        default=list(FAULTS),
        metavar="FAULT",
    )
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="unmask-soak-"))
    print(f"seed {seed}, {given.minutes:g} minutes of faults, in {folder}", flush=True)
    # what it started leaves with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to leave"))
    outcome = Soak(
        folder, given.cells, given.faults, Pace(seconds=60 * given.minutes), seed
    )()
    missed = [kind for kind in given.faults if not outcome.met[kind]]
    if missed and given.minutes >= LONG:
        outcome.complaints.append(f"these faults had no turn: {', '.join(missed)}")
    show(outcome, seed, Console())
    if not outcome.complaints:
        shutil.rmtree(folder)
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
