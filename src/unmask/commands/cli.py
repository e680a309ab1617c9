"""Shared by all commands: exit codes, errors in one line, checks of the typed keys."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from unmask.config.checks import ConfigError
from unmask.config.experiments import CONF
from unmask.config.overrides import (
    refused_launchers,
    unknown_choices,
    unknown_experiments,
    unknown_keys,
)
from unmask.config.secrets import redact
from unmask.stages.ledger import LedgerError

# their text is written for the user, so it is shown without a traceback
USER_ERRORS = (LedgerError, ValueError, OSError, FloatingPointError)
MULTIRUN = ("-m", "--multirun")
# Hydra's flags that print a config instead of running it
SHOW_CONFIG_FLAGS = ("--cfg", "-c", "--info", "-i")
TELEMETRY_OFF = {
    # W&B reports its own crashes to its makers
    "WANDB_ERROR_REPORTING": "false",
    # huggingface_hub, and with it timm and transformers
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # a convention that other packages follow
    "DO_NOT_TRACK": "1",
}
# True once Hydra has composed the config and called the command
command_started = False


def fail(message: str, code: int) -> NoReturn:
    """Print the message to stderr and exit: 1 for an error, 2 for a bad config."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def user_message(error: BaseException) -> str:
    """Return what the user should read about an error.

    An error that a loader worker passed on: its last line, without the worker's
    traceback. An unexpected error: its type, its first line and its notes, which
    say what to do and where the traceback is.
    """
    text = redact(str(error))
    if "Original Traceback" in text:
        return text.strip().splitlines()[-1].split(": ", 1)[-1]
    if isinstance(error, OSError) and error.strerror:
        if error.filename:
            return f"{error.filename}: {error.strerror}"
        return error.strerror
    if isinstance(error, USER_ERRORS):
        return text
    lines = text.strip().splitlines()
    summary = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return "; ".join([summary, *getattr(error, "__notes__", [])])


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn errors of the user into one line and an exit code.

    The code is 2 for bad arguments and 1 for everything else.
    """
    try:
        yield
    except ConfigError as error:
        fail(str(error), 2)
    except USER_ERRORS as error:
        fail(user_message(error), 1)


def disable_telemetry() -> None:
    """Stop packages from reporting to their makers, here and in child processes."""
    os.environ.update(TELEMETRY_OFF)


def mark_started() -> None:
    """Mark that the command itself runs; every command calls this first.

    From here on an exit code of 1 is no longer a mistake on the command line.
    """
    global command_started
    command_started = True
    # by default Python prints the source line that warned, too
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"


def config_flags(arguments: Sequence[str]) -> list[str]:
    """Return --config-dir and similar flags with their values, as typed.

    A command that starts another one passes them on, so that both compose from the
    same folders.
    """
    flags = []
    expects_value = False
    for argument in arguments:
        is_flag = argument.startswith(("--config-", "-cd", "-cn", "-cp"))
        if is_flag or expects_value:
            flags.append(argument)
        expects_value = is_flag and "=" not in argument
    return flags


def quote_value(argument: str) -> str:
    """Quote the value of key=value where it contains '=' itself.

    Hydra cannot parse checkpoint=.../step=5.ckpt without quotes.
    """
    key, equals, value = argument.partition("=")
    # quoted values, lists, dicts and sweeps already have a meaning for Hydra
    is_structured = value.startswith(("'", '"', "[", "{", "(")) or "," in value
    if "=" not in value or argument.startswith("-") or is_structured:
        return argument
    return f"{key}{equals}'{value}'"


def help_text(yaml_text: str) -> str:
    """Turn a command's file of defaults into its help.

    Comments stay; the part that only Hydra reads is left out; groups are shown with
    their choices.
    """
    lines = yaml_text.partition("\nhydra:")[0].splitlines()
    help_lines = [line for line in lines if not line.startswith(("defaults:", "  - "))]
    for line in lines:
        if not line.startswith("  - ") or "override" in line:
            continue
        group, colon, value = line[4:].partition(":")
        # an entry without a colon, such as _self_, is no group
        if colon:
            choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            help_lines.append(f"{group}:{value}    # one of {', '.join(choices)}")
    return "\n".join(help_lines) + "\n"


def positional_to_key(arguments: Sequence[str], key: str) -> list[str]:
    """Replace the one argument without '=' by key='argument'.

    Two of them end the command with exit code 2.
    """
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


def run_command(command: Callable[[], None], keys: Iterable[str]) -> None:
    """Check the typed keys, then run the command.

    Mistyped keys and Hydra's complaints about overrides end with exit code 2.
    """
    disable_telemetry()
    _print_help()
    _check_arguments(sys.argv[1:], keys)
    arguments = [quote_value(argument) for argument in sys.argv[1:]]
    # argparse wants -m before the overrides; people type it anywhere
    arguments.sort(key=lambda argument: argument not in MULTIRUN)
    sys.argv[1:] = arguments
    try:
        command()
    except SystemExit as leaving:
        # Hydra exits with 1 when it cannot compose the config: that is a bad config
        if leaving.code == 1 and not command_started and not _is_multirun(arguments):
            raise SystemExit(2) from None
        raise


def _print_help() -> None:
    """Answer --help from the command's own defaults, if it has such a file.

    src/train.py has none and leaves the answer to Hydra.
    """
    defaults = CONF / f"{Path(sys.argv[0]).stem}.yaml"
    if {"-h", "--help"} & {*sys.argv} and defaults.exists():
        print(help_text(defaults.read_text()), end="")
        raise SystemExit(0)


def _check_arguments(arguments: list[str], keys: Iterable[str]) -> None:
    unknown = (
        unknown_keys(arguments, keys)
        + unknown_experiments(arguments)
        + unknown_choices(arguments)
        + refused_launchers(arguments)
    )
    if unknown:
        fail("\n".join(unknown), 2)
    show_flags = [
        argument
        for argument in arguments
        if argument.partition("=")[0] in SHOW_CONFIG_FLAGS
    ]
    if show_flags and _is_multirun(arguments):
        fail(
            f"{show_flags[0]} shows the config of one run and -m starts many; leave out"
            " one of them",
            2,
        )


def _is_multirun(arguments: Sequence[str]) -> bool:
    return any(flag in arguments for flag in MULTIRUN)
