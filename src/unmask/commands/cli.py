"""Shared by all commands: typed arguments, errors in one line, exit codes.

0 done, 1 error or a negative answer, 2 bad arguments, 75 asked to stop, 130 Ctrl-C.
A command's script is imported without torch: --help and wrong arguments need not wait.
"""

import gc
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_origin

from unmask.commands.help import HELP_FLAGS, help_text
from unmask.config import deciding
from unmask.config.checks import AnySection, ConfigError, parse_arguments
from unmask.config.conf_files import CONF
from unmask.config.keys import fields_by_key, known_keys, path_keys
from unmask.config.overrides import (
    add_part_keys,
    check_overrides,
    config_folders,
    config_groups,
    folder_flags,
    is_number,
    join_flags,
    override_key,
    search_path,
)
from unmask.config.secrets import redact
from unmask.config.section import Section
from unmask.stages.ledger import LedgerError
from unmask.storage.streams import dropped, outlive_streams

# Hydra's own folders: no keys of a run, but paths too
HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
# their text is written for the user, so it is shown without a traceback
USER_ERRORS = (LedgerError, ValueError, OSError, FloatingPointError)
MULTIRUN = ("-m", "--multirun")
NO_SUCH_OPTION = "there is no such option; --help lists what there is"
NO_FOLDER = (
    "the folder that this command was started in has been removed; change to one that"
    " exists and type the same command again"
)
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
# True once Hydra has composed the config of src/train.py and called its function
command_started = False


def command(
    section: type[Section],
    run: Callable[..., Any],
    *,
    positional: str = "",
    takes_run: bool = False,
    takes_folders: bool = False,
) -> None:
    """Run a command with the typed arguments; exit with 1 where run returns False.

    section: its arguments; conf/<its name>.yaml has their defaults, and comments that
    are the help. positional: the key of arguments without "=". takes_run: whatever
    src/train.py takes may be typed, too; run gets it as a list of overrides.
    takes_folders: --config-dir may be.
    """

    def answer(typed: list[str]) -> Any:
        if takes_run:
            return run(*parse_with_run(section, typed))
        return run(parse(section, typed, positional, takes_folders))

    run_typed(section, answer)


def run_typed(section: type[Section], answer: Callable[[list[str]], Any]) -> None:
    """Run a command with what was typed; exit with 1 where it returns False.

    section: of the arguments, whose file of defaults is the help.
    """
    # begin_command has paused it for imports
    gc.enable()
    typed = sys.argv[1:]
    outlive_streams()
    refuse_missing_folder()
    if HELP_FLAGS & {*typed}:
        print(help_text(_defaults_file(section)), end="")
        return
    disable_telemetry()
    shorten_warnings()
    with exit_on_user_error():
        done = answer(typed)
    # what these commands print is what they are for
    if done is False or "stdout" in dropped:
        raise SystemExit(1)


def parse(
    section: type[AnySection],
    typed: Sequence[str],
    positional: str = "",
    takes_folders: bool = False,
) -> AnySection:
    """Return a command's arguments: its defaults with the typed key=value set.

    takes_folders: of --config-dir, which are looked into from then on. Raises
    ConfigError with a line for each error.
    """
    typed = join_flags(typed)
    flags = folder_flags(typed) if takes_folders else []
    typed = [argument for argument in typed if argument not in flags]
    words = [argument for argument in typed if "=" not in argument]
    if options := [word for word in words if word.startswith("-")]:
        raise ConfigError(f"{options[0]}: {NO_SUCH_OPTION}")
    values = [argument for argument in typed if "=" in argument]
    if words:
        values.append(_words_as_value(section, words, positional))
    check_overrides([*flags, *values], known_keys(section))
    values = [_quote_yaml(value, path_keys(section)) for value in values]
    # it takes Hydra, which --help and wrong keys need not wait for
    from unmask.commands.composition import compose_arguments

    raw = compose_arguments(section.__name__.lower(), values)
    keys = [override_key(value) for value in values]
    return parse_arguments(section, raw, _defaults_file(section).read_text(), keys)


def _quote_yaml(argument: str, paths: frozenset[str]) -> str:
    """Quote a path, in which YAML's signs (# and others) mean nothing."""
    key, _, value = argument.partition("=")
    if override_key(argument) not in paths or value[:1] in ("", "'", '"', "["):
        return argument
    return argument if value == "null" else f"{key}={json.dumps(value)}"


def _words_as_value(section: type[Section], words: list[str], key: str) -> str:
    """Return key=value for arguments without "="; ConfigError where none are taken."""
    if not key:
        raise ConfigError(f"{words[0]}: write key=value; --help lists the keys")
    # JSON is YAML in which no character has a meaning
    if get_origin(section.model_fields[key].annotation) is list:
        return f"{key}={json.dumps(words)}"
    if len(words) > 1:
        raise ConfigError(f"{' '.join(words)}: give one {key}, not {len(words)}")
    return f"{key}={json.dumps(words[0])}"


def parse_with_run(
    section: type[AnySection], typed: Sequence[str]
) -> tuple[AnySection, list[str]]:
    """Return a command's arguments, and the overrides of the run that it is about.

    Raises ConfigError for wrong ones, and for what only src/train.py takes.
    """
    typed = join_flags(typed)
    flags = folder_flags(typed)
    for argument in typed:
        if argument.startswith("-") and argument not in (*MULTIRUN, *flags):
            raise ConfigError(f"{argument}: {NO_SUCH_OPTION}")
        if override_key(argument).startswith("hydra"):
            raise ConfigError(
                f"{argument}: Hydra's own keys are for src/train.py; leave it out"
            )
    check_overrides(typed, [*known_keys(), *config_groups(), *known_keys(section)])
    names = fields_by_key(section)
    own = [
        argument
        for argument in typed
        if re.split(r"[.=]", argument.lstrip("+"))[0] in names
    ]
    is_multirun = any(flag in typed for flag in MULTIRUN)
    others = [
        quote_value(each, is_multirun) for each in typed if each not in (*own, *flags)
    ]
    others = [*search_path(config_folders(flags)), *others]
    arguments = parse(section, [*flags, *own], takes_folders=True)
    return arguments, add_part_keys(others, known_keys())


def check_typed() -> None:
    """Check what is typed for src/train.py, and put it into Hydra's words in sys.argv.

    Exits with 2 where it is wrong, and with 0 once the help is printed.
    """
    disable_telemetry()
    refuse_missing_folder()
    is_multirun = any(flag in sys.argv[1:] for flag in MULTIRUN)
    with exit_on_user_error():
        arguments = add_part_keys(
            [quote_value(each, is_multirun) for each in join_flags(sys.argv[1:])],
            known_keys(),
        )
        if typed := [a for a in arguments if a.partition("=")[0] in deciding.KEYS]:
            options = deciding.sweeper_options(typed, is_multirun)
            arguments = [*(a for a in arguments if a not in typed), *options]
        check_overrides(arguments, [*known_keys(), *config_groups()])
        # it takes Hydra, which wrong keys need not wait for
        from unmask.commands.composition import check_syntax, compose_help

        check_syntax(arguments)
        for argument in arguments if is_multirun else ():
            if argument.partition("=")[0] in SHOW_CONFIG_FLAGS:
                raise ConfigError(
                    f"{argument} shows the config of one run and -m starts many; leave"
                    " out one of them"
                )
        others = [argument for argument in arguments if argument not in HELP_FLAGS]
        if len(others) < len(arguments) and _is_plain(others):
            print(compose_help(others))
            raise SystemExit(0)
    # argparse wants flags before the overrides; people type them anywhere
    sys.argv[1:] = sorted(arguments, key=lambda each: not each.startswith("-"))


def run_hydra(main: Callable[..., None]) -> None:
    """Run src/train.py's function with the composed config: of sys.argv, or Hydra's.

    Hydra's complaints about overrides end with exit code 2.
    """
    from unmask.commands.composition import compose_run

    arguments = sys.argv[1:]
    if _is_plain(arguments):
        with exit_on_user_error():
            config = compose_run(arguments)
        if config is not None:
            main(config)
            return
    # paused for imports; a sweep goes on for long
    gc.enable()
    try:
        main()
    except SystemExit as leaving:
        # Hydra exits with 1 when it cannot compose the config: that is a bad config
        is_multirun = any(flag in arguments for flag in MULTIRUN)
        if leaving.code == 1 and not command_started and not is_multirun:
            raise SystemExit(2) from None
        raise


def _is_plain(arguments: Sequence[str]) -> bool:
    """Tell whether they are overrides of a run alone: no flags, no keys of Hydra."""
    return not any(
        argument.startswith("-") or override_key(argument).startswith("hydra")
        for argument in arguments
    )


def mark_started() -> None:
    """Mark that Hydra has composed the config: an exit code of 1 is now an error."""
    global command_started
    command_started = True
    shorten_warnings()


def shorten_warnings() -> None:
    """Print warnings without the source line that warned."""
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"


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
    # whatever needs it, such as torch while it is imported
    if isinstance(error, FileNotFoundError) and not _has_working_folder():
        return NO_FOLDER
    if isinstance(error, OSError) and error.strerror:
        if error.filename:
            return f"{error.filename}: {error.strerror}"
        # the notes say where it was
        return "; ".join([error.strerror, *getattr(error, "__notes__", [])])
    if isinstance(error, USER_ERRORS):
        return text
    lines = text.strip().splitlines()
    summary = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return "; ".join([summary, *getattr(error, "__notes__", [])])


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn errors of the user into one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), 2)
    except USER_ERRORS as error:
        fail(user_message(error), 1)
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted", 130)


def disable_telemetry() -> None:
    """Stop packages from reporting to their makers, here and in child processes."""
    os.environ.update(TELEMETRY_OFF)


def refuse_missing_folder() -> None:
    """Exit with 1 where the folder that this process works in was removed.

    A sweep's cells begin hours after it; Hydra would end in a traceback.
    """
    if not _has_working_folder():
        fail(NO_FOLDER, 1)


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def this_script(overrides: Sequence[str]) -> list[str]:
    """Return the command that runs this script with these overrides.

    It composes from the same folders: --config-dir and similar flags are passed on.
    """
    script = str(Path(sys.argv[0]).resolve())
    return [sys.executable, script, *config_flags(sys.argv[1:]), *overrides]


def config_flags(arguments: Sequence[str]) -> list[str]:
    """Return --config-dir and similar flags with their values, as typed."""
    flags = []
    expects_value = False
    for argument in arguments:
        is_flag = argument.startswith(("--config-", "-cd", "-cn", "-cp"))
        if is_flag or expects_value:
            flags.append(argument)
        expects_value = is_flag and "=" not in argument
    return flags


def quote_value(argument: str, is_multirun: bool = False) -> str:
    """Quote the value of key=value where it contains '=' itself, or is a path.

    Hydra cannot parse checkpoint=.../step=5.ckpt, nor blanks and brackets in a path,
    without quotes. Raises ConfigError for a path with a comma, which is a sweep.
    """
    key, equals, value = argument.partition("=")
    if override_key(argument) in path_keys():
        return f"{key}={_quote_path(key, value, is_multirun)}" if value else argument
    if key in HYDRA_FOLDERS and value.startswith("~"):
        # where Hydra reads ~ as the deletion of a key, or makes a folder of that name
        return f"{key}={_quote_path(key, str(Path(value).expanduser()), is_multirun)}"
    # quoted values, lists, dicts and sweeps already have a meaning for Hydra
    is_structured = value.startswith(("'", '"', "[", "{", "(")) or "," in value
    if "=" not in value or argument.startswith("-") or is_structured:
        return argument
    return f"{key}{equals}'{value}'"


def _quote_path(key: str, value: str, is_multirun: bool) -> str:
    """Return a path in the quotes that Hydra needs."""
    is_quoted = value[0] == value[-1] and value[0] in "'\""
    # quoted already, not a path, made of other values, or Hydra's choice(...)
    if is_quoted or value == "null" or "${" in value or re.match(r"\w+\(", value):
        return value
    if "," in value and is_multirun:
        return ",".join(_quote_path(key, part, True) for part in value.split(","))
    if "," in value:
        raise ConfigError(
            f"{key} = {value}: a comma parts the values of a sweep; type a path that"
            f" has one in two kinds of quotes: '{key}=\"{value}\"'"
        )
    # a number is one to Hydra, and to us the digits of a fingerprint
    if re.fullmatch(r"[\w./:+@-]*", value) and not is_number(value):
        return value
    escaped = value.replace("'", r"\'")
    return f"'{escaped}'"


def _defaults_file(section: type[Section]) -> Path:
    return CONF / f"{section.__name__.lower()}.yaml"
