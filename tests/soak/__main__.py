"""python -m soak --minutes 20 --seed 0

Exits with 0 where nothing is wrong; else with 1, and keeps the folder.
"""

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

# minutes in which every kind of fault occurs
LONG = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A sweep under random faults must end as an undisturbed one."
    )
    parser.add_argument(
        "--minutes", type=float, default=LONG, help="how long there are faults"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="of the faults and of the sweep; random by default",
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument(
        "--faults",
        nargs="+",
        choices=list(FAULTS),
        default=list(FAULTS),
        metavar="FAULT",
    )
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="unmask-soak-"))
    print(f"seed {seed}, {args.minutes:g} minutes of faults, in {folder}", flush=True)
    # an exception, so that the sweep is ended too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to leave"))
    outcome = Soak(
        folder, args.cells, args.faults, Pace(seconds=60 * args.minutes), seed
    )()
    missed = [kind for kind in args.faults if not outcome.num_faults[kind]]
    if missed and args.minutes >= LONG:
        outcome.complaints.append(f"these faults did not occur: {', '.join(missed)}")
    show(outcome, seed, Console())
    if not outcome.complaints:
        shutil.rmtree(folder)
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
