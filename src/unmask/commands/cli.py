"""What the commands share: exit codes, and a word on mistyped keys before anything starts."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from unmask.config.checks import ConfigError
from unmask.config.experiments import CONF
from unmask.config.overrides import unknown_choices, unknown_names, unknown_overrides
from unmask.config.secrets import masked
from unmask.stages.ledger import LedgerError

# raised with a text for the user
EXPLAINED = (LedgerError, ValueError, OSError, FloatingPointError)
MULTIRUN = ("-m", "--multirun")
SHOWING = ("--cfg", "-c", "--info", "-i")  # what they show is one run's


class CellError(RuntimeError):
    """A cell of a sweep that shares its process with the sweep (Hydra's own launchers): the others go on."""


QUIET = {
    "WANDB_ERROR_REPORTING": "false",  # W&B's own reports of its faults, to its makers
    # huggingface_hub, and with it timm and transformers
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",  # whoever else heeds it
}
started = False  # whether Hydra composed a config and called the command


def fail(message: str, code: int) -> NoReturn:
    """Say it on stderr and leave: 1 error, 2 bad config."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def user_message(error: BaseException) -> str:
    """The error's own words.

    Of one that a loader's worker passed on, its last line, without the worker's traceback. Of one that nobody foresaw,
    its kind, its first line and the notes it got on its way: the remedy, and where the traceback stands.
    """
    text = masked(str(error))
    if "Original Traceback" in text:
        return text.strip().splitlines()[-1].split(": ", 1)[-1]
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        )
    if isinstance(error, EXPLAINED):
        return text
    first = next(iter(text.strip().splitlines()), "")
    return "; ".join(
        [f"{type(error).__name__}: {first}", *getattr(error, "__notes__", [])]
    )


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Within, what has a text for the user is told in a line and ends the command: 2 bad arguments, else 1."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), 2)
    except EXPLAINED as error:
        fail(user_message(error), 1)


def disable_telemetry() -> None:
    """Nothing that this project uses reports to its makers, in this process and those it starts."""
    os.environ.update(QUIET)


def mark_started() -> None:
    """To be called first by a command: from here on faults are no longer Hydra's about the command line."""
    global started
    started = True
    # without the line of Python that said it
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"


def config_flags(arguments: Sequence[str]) -> list[str]:
    """--config-dir and its like as typed, with their values: a command that this one starts composes from there too."""
    found, pending = [], False
    for argument in arguments:
        flag = argument.startswith(("--config-", "-cd", "-cn", "-cp"))
        if flag or pending:
            found.append(argument)
        pending = flag and "=" not in argument
    return found


def quoted(argument: str) -> str:
    """key=value with the value in quotes where it has an '=' of its own, as step=N.ckpt has: Hydra would choke."""
    key, equals, value = argument.partition("=")
    plain = (
        "=" in value
        and not argument.startswith("-")
        and value[0] not in "'\"[{("
        and "," not in value
    )
    return f"{key}{equals}'{value}'" if plain else argument


def explanation(file: str) -> str:
    """A command's own file of defaults, with its comments and the choices of its groups, without what Hydra reads."""
    lines = file.partition("\nhydra:")[0].splitlines()
    chosen = [
        line[4:].partition(":")
        for line in lines
        if line.startswith("  - ") and "override" not in line
    ]
    groups = [
        f"{group}:{value}    # one of"
        f" {', '.join(sorted(path.stem for path in (CONF / group).glob('*.yaml')))}"
        for group, colon, value in chosen
        if colon
    ]
    return (
        "\n".join(
            [
                *(line for line in lines if not line.startswith(("defaults:", "  - "))),
                *groups,
            ]
        )
        + "\n"
    )


def one_word(arguments: Sequence[str], key: str) -> list[str]:
    """A plain word stands for `key`; two of them end the command with exit code 2."""
    words = [
        argument
        for argument in arguments
        if not argument.startswith("-") and "=" not in argument
    ]
    if len(words) > 1:
        fail(f"{' '.join(words)}: give one {key}, not {len(words)}", 2)
    return [
        f"{key}='{argument}'" if argument in words else argument
        for argument in arguments
    ]


def guarded(command: Callable[[], None], keys: Iterable[str]) -> None:
    """Run a Hydra command; mistyped keys and Hydra's own complaints about overrides end with exit code 2."""
    disable_telemetry()
    own = CONF / f"{Path(sys.argv[0]).stem}.yaml"
    if {"-h", "--help"} & {*sys.argv} and own.exists():  # src/train.py has Hydra's page
        print(explanation(own.read_text()), end="")
        raise SystemExit(0)
    if (
        faults := unknown_overrides(sys.argv[1:], keys)
        + unknown_names(sys.argv[1:])
        + unknown_choices(sys.argv[1:])
    ):
        fail("\n".join(faults), 2)
    shown = next(
        (
            argument
            for argument in sys.argv[1:]
            if argument.partition("=")[0] in SHOWING
        ),
        None,
    )
    if shown and any(flag in sys.argv for flag in MULTIRUN):
        fail(
            f"{shown} shows the config of one run and -m starts many; leave out one of"
            " them",
            2,
        )
    sys.argv[1:] = map(quoted, sys.argv[1:])
    # argparse wants -m before the overrides; people type it anywhere
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    try:
        command()
    except SystemExit as leaving:
        if (
            leaving.code == 1
            and not started
            and not any(flag in sys.argv for flag in MULTIRUN)
        ):
            raise SystemExit(2) from None
        raise
