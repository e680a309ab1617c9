"""Overrides of the command line that name a key, group or experiment that there is not."""

from collections.abc import Iterable

from unmask.config.checks import ConfigError
from unmask.config.experiments import (
    ABLATIONS,
    ALL,
    CONF,
    is_sweep,
    no_such,
    read_scale,
    read_sweep,
)
from unmask.config.keys import key_of, known_keys, suggestion


def unknown_overrides(arguments: list[str], extra: Iterable[str] = ()) -> list[str]:
    """A line for each plain key=value argument whose key no config has; Hydra's own syntax is left to Hydra."""
    known = [*known_keys(), *extra]
    faults = []
    for argument in arguments:
        key = key_of(argument)
        if (
            argument.startswith("-")
            or "=" not in argument
            or key.startswith("hydra")
            or "@" in key
        ):
            continue
        if key not in known and not any(
            key.startswith(f"{whole}.") for whole in ("logger.csv",)
        ):
            faults.append(f"{key}: there is no such key{suggestion(key, known)}")
    return faults


def unknown_names(arguments: list[str]) -> list[str]:
    """A line for each experiment=... or scale=... that there is not, or whose files are wrong.

    To Hydra both are optional groups: it would run the default without a word. Nor is a value of a scale's file taken
    from the command line: tables are read from the file, so it would change nothing.
    """
    faults = []
    for key, _, value in (argument.partition("=") for argument in arguments):
        if key.lstrip("+~").startswith("scale."):
            faults.append(
                f"{key}: a scale's values are those of its file,"
                " conf/scale/<name>.yaml; other seeds: seed=0,1,2"
            )
        names = value.strip("'\"").split(",") if key in ("experiment", "scale") else []
        for name in {*names} - {
            "null",
            *([ALL, ABLATIONS] if key == "experiment" else []),
        }:
            try:
                if key == "scale":
                    read_scale(name)
                elif (
                    is_sweep(name)
                    or not (CONF / "experiment" / f"{name}.yaml").exists()
                ):
                    read_sweep(name)
            except ConfigError as error:
                faults.append(str(error))
    return faults


def unknown_choices(arguments: list[str]) -> list[str]:
    """A line for each group=choice that conf/ lacks, and for each value of a logger that is not chosen.

    Hydra says the first in many lines. Where --config-dir adds choices, they are Hydra's to know.
    """
    pairs = [
        (key.lstrip("+"), value)
        for key, _, value in (argument.partition("=") for argument in arguments)
    ]
    if any(argument.startswith(("--config-", "-cd", "-cp")) for argument in arguments):
        return []
    faults = []
    for key, value in pairs:
        known = (
            sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            if key.isidentifier()
            else []
        )
        for name in [each.strip(" '\"") for each in value.strip("'\"[]").split(",")]:
            # choice(...), glob(...)
            sought = known and key not in ("experiment", "scale") and "(" not in value
            if sought and name not in (*known, "null", ""):
                faults.append(no_such(key, name, known))
        part, _, rest = key.partition(".")
        logger = rest.partition(".")[0]
        if (
            part == "logger"
            and logger
            and not any(key == "logger" and logger in value for key, value in pairs)
        ):
            faults.append(
                f"{key}: the logger {logger} is not chosen; add logger={logger}"
            )
    return faults
