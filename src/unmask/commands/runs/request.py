"""What is typed after src/runs.py: a verb, stages, filters and options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from unmask.commands.cli import parse
from unmask.commands.runs.filters import KEYS, Filter, parse_filter
from unmask.config.checks import ConfigError
from unmask.config.keys import did_you_mean
from unmask.config.overrides import override_key
from unmask.config.section import Count, Positive, Section
from unmask.stages.records import Ledger

Until = Literal["done", "any-failure", "stalled"]


class Runs(Section):
    """Hold the options of all verbs; each verb takes some of them."""

    runs_dir: Annotated[str, Field(min_length=1)]
    format: Literal["text", "json", "csv"]
    sort: str | None
    limit: Count | None
    group: bool
    table: str | None
    until: Until | None
    timeout_minutes: Positive | None
    poll_seconds: Positive
    keep: Literal["weights", "results"] | None
    yes: bool


@dataclass(frozen=True)
class Request:
    """Hold what was asked for; words: the stages that were named, as typed."""

    verb: str
    words: tuple[str, ...]
    filters: tuple[Filter, ...]
    options: Runs
    # of `why`: a run to compare with, in the words of src/train.py
    overrides: tuple[str, ...] = ()


# returns False, or a code to exit with, for a negative answer
Answer = Callable[[Request, Ledger], Any]


@dataclass(frozen=True)
class Verb:
    """Say what a verb takes: options, from how many stages to how many, filters."""

    options: tuple[str, ...]
    words: tuple[int, int]
    takes_filters: bool = False
    takes_overrides: bool = False


MANY = 1000
VERBS = {
    "list": Verb(("format", "sort", "limit", "group", "table"), (0, 0), True),
    "show": Verb(("format",), (1, 1)),
    "compare": Verb(("format",), (2, MANY)),
    "status": Verb(("format", "until", "timeout_minutes", "poll_seconds"), (0, MANY)),
    "why": Verb((), (1, 2), takes_overrides=True),
    "page": Verb((), (0, MANY)),
    "du": Verb(("format", "limit"), (0, 0), True),
    "rm": Verb(("keep", "yes"), (1, MANY)),
    "prune": Verb(("keep", "yes"), (0, 0), True),
}


def parse_request(typed: Sequence[str]) -> Request:
    """Return what was asked for; ConfigError for what the verb does not take."""
    verb = typed[0] if typed else "list"
    if verb not in VERBS and not _has_sign(verb):
        raise ConfigError(
            f"{verb}: there is no such verb{did_you_mean(verb, VERBS)}; one of"
            f" {', '.join(VERBS)}"
        )
    # without a verb, what is typed are filters of a list
    arguments = list(typed[1:] if verb in VERBS else typed)
    verb = verb if verb in VERBS else "list"
    row = VERBS[verb]
    words = tuple(a for a in arguments if not _has_sign(a) and not a.startswith("-"))
    options: list[str] = []
    others: list[str] = []
    for argument in arguments:
        if argument in words:
            continue
        is_option = override_key(argument) in Runs.model_fields
        (options if is_option else others).append(argument)
    _check_options(verb, row, options)
    _check_words(verb, row, words)
    if flags := [argument for argument in others if argument.startswith("-")]:
        raise ConfigError(f"{flags[0]}: there is no such option; --help lists them")
    if others and not (row.takes_filters or row.takes_overrides):
        raise ConfigError(f"{others[0]}: {verb} takes no filters, list does")
    return Request(
        verb,
        words,
        tuple(map(parse_filter, others)) if row.takes_filters else (),
        parse(Runs, options),
        tuple(others) if row.takes_overrides else (),
    )


def _has_sign(argument: str) -> bool:
    """Tell whether an argument is key=value, or a comparison such as mask_ratio>0.5."""
    return any(sign in argument for sign in "=<>")


def _check_options(verb: str, row: Verb, options: list[str]) -> None:
    allowed = ("runs_dir", *row.options)
    for option in options:
        key = override_key(option)
        if key not in allowed:
            takers = [name for name, other in VERBS.items() if key in other.options]
            raise ConfigError(
                f"{option}: {verb} does not take it, {', '.join(takers)} does; {verb}"
                f" takes {', '.join(allowed)}"
            )


def _check_words(verb: str, row: Verb, words: tuple[str, ...]) -> None:
    fewest, most = row.words
    if fewest <= len(words) <= most:
        return
    if len(words) < fewest:
        noun = "a stage" if fewest == 1 else f"{fewest} stages"
        raise ConfigError(
            f"{verb}: name {noun}, by the first digits of a fingerprint;"
            " python src/runs.py list shows them"
        )
    if not most:
        raise ConfigError(
            f"{words[0]}: {verb} takes filters such as {KEYS[0]}=pretrain, no names;"
            f" python src/runs.py show {words[0]} shows one stage"
        )
    raise ConfigError(f"{' '.join(words)}: {verb} takes {most}, not {len(words)}")
