"""What the commands share: exit codes, and a word on mistyped keys before anything starts."""

import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from unmask.runs.checks import unknown_overrides

MULTIRUN = ("-m", "--multirun")
entered = False  # whether Hydra composed a config and called the command


def fail(message: str, code: int) -> NoReturn:
    """Say it on stderr and leave: 1 error, 2 bad config."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def told(error: BaseException) -> str:
    """The error's own words; of one that a loader's worker passed on, its last line, without the worker's traceback."""
    text = str(error)
    return text.strip().splitlines()[-1].split(": ", 1)[-1] if "Original Traceback" in text else text


def enter() -> None:
    """To be called first by a command: from here on faults are no longer Hydra's about the command line."""
    global entered
    entered = True


def guarded(command: Callable[[], None], keys: Iterable[str]) -> None:
    """Run a Hydra command; mistyped keys and Hydra's own complaints about overrides end with exit code 2."""
    if faults := unknown_overrides(sys.argv[1:], keys):
        fail("\n".join(faults), 2)
    # argparse wants -m before the overrides; people type it anywhere
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    try:
        command()
    except SystemExit as leaving:
        if leaving.code == 1 and not entered and not any(flag in sys.argv for flag in MULTIRUN):
            raise SystemExit(2) from None
        raise
