"""src/runs.py list: one line a stage, one a group of seeds, or a table of two dials."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unmask.commands.runs.filters import age_seconds, check_part_keys, record_value
from unmask.commands.runs.output import (
    NO_VALUE,
    Column,
    format_bytes,
    format_seconds,
    print_line,
    print_rows,
    print_table,
)
from unmask.commands.runs.request import Request
from unmask.commands.units import count_noun
from unmask.config.checks import ConfigError
from unmask.config.dials import format_value
from unmask.config.keys import did_you_mean, is_part_key, known_keys
from unmask.config.overrides import config_groups
from unmask.stages.encoders import SIDES, is_of_side, plain_title
from unmask.stages.measures import Measure
from unmask.stages.records import Ledger, RunRecord

# digits that are shown; `show` and all other commands take as many as tell stages apart
DIGITS = 6
SHORT_UNITS = {"% top-1": "%", "validation loss": "loss"}
SORT_KEYS = ("age", "result", "size", "seconds", "stage", "state", "seed")
COLUMNS = (
    Column("id", "id"),
    Column("stage", "stage", folds=True),
    Column("differs", "differs", folds=True),
    Column("state", "state"),
    Column("result", "result", is_number=True),
    Column("age", "age", is_number=True),
    Column("size", "size", is_number=True),
)
GROUP_COLUMNS = (
    Column("stage", "stage", folds=True),
    Column("differs", "differs", folds=True),
    Column("n", "n", is_number=True),
    Column("result", "result", is_number=True),
    Column("", "unit"),
    Column("seeds", "seeds", folds=True),
)


def list_stages(request: Request, ledger: Ledger) -> None:
    """Print the stages that the filters leave, the latest first."""
    options = request.options
    records = select(ledger.records, request)
    records = sort_records(records, options.sort or "age")
    if options.table:
        _print_dial_tables(records, options.table, options.format)
        return
    if options.group:
        _print_groups(records[: options.limit], options.format)
        return
    shown = records[: options.limit]
    rows = [record_row(record) for record in shown]
    texts = [_texts(record) for record in shown] if options.format == "text" else []
    print_rows(COLUMNS, rows, options.format, texts)
    if options.format == "text":
        more = len(records) - len(shown)
        note = f"; {more:,} more, limit={options.limit}" if more else ""
        print_line(f"{count_noun(len(records), 'stage')} in {ledger.runs_dir}{note}")


def select(records: Sequence[RunRecord], request: Request) -> list[RunRecord]:
    """Return the stages that fit all filters; ConfigError for a key that none has."""
    check_part_keys((each.key for each in request.filters), records)
    return [r for r in records if all(fits(r) for fits in request.filters)]


def sort_records(records: list[RunRecord], by: str) -> list[RunRecord]:
    """Sort by a key: the latest, the best, the largest first; "-key" turns it round.

    Raises ConfigError for an unknown key.
    """
    key = by.removeprefix("-")
    dials = [*known_keys(), *config_groups()]
    if key not in (*SORT_KEYS, *dials) and not is_part_key(key):
        raise ConfigError(
            f"sort={by}: one of {', '.join(SORT_KEYS)}, or a dial"
            f"{did_you_mean(key, [*SORT_KEYS, *dials])}"
        )
    check_part_keys([key], records)
    rank = _RANKS.get(key) or (lambda record: record_value(record, key))
    known = [record for record in records if rank(record) is not None]
    unknown = [record for record in records if rank(record) is None]
    try:
        known.sort(key=rank)
    except TypeError:
        # a dial that is a number here and a word there
        known.sort(key=lambda record: str(rank(record)))
    return (known[::-1] if by.startswith("-") else known) + unknown


def _age_rank(record: RunRecord) -> float | None:
    at = record.ended or record.started
    return -at.timestamp() if at else None


def _result_rank(record: RunRecord) -> tuple[str, float] | None:
    """Return a sort key: results of one unit together, the best first."""
    measure = record.measure
    if measure is None:
        return None
    sign = -1 if measure.higher_is_better else 1
    return measure.unit, sign * measure.value


_RANKS: dict[str, Callable[[RunRecord], Any]] = {
    "age": _age_rank,
    "result": _result_rank,
    "size": lambda record: -record.bytes,
    "seconds": lambda record: None if record.seconds is None else -record.seconds,
    "stage": lambda record: record.title,
    "state": lambda record: record.state,
    "seed": lambda record: record.seed,
}


def record_row(record: RunRecord) -> dict[str, Any]:
    """Return a stage as JSON and CSV have it."""
    measure = record.measure
    return {
        "stage": record.kind,
        "fingerprint": record.fingerprint,
        "title": record.title,
        "name": record.name,
        "start": record.start,
        "parent": record.parent,
        "dials": record.dials,
        "seed": record.seed,
        "state": record.state,
        "measure": measure and measure.key,
        "value": measure and measure.value,
        "unit": measure and measure.unit,
        "started": record.started and record.started.isoformat(),
        "ended": record.ended and record.ended.isoformat(),
        "seconds": record.seconds,
        "bytes": record.bytes,
        "experiment": record.experiment,
        "cell": record.cell,
        "sweep": record.sweep,
        "folder": str(record.folder),
    }


def _texts(record: RunRecord) -> dict[str, str]:
    return {
        "id": record.fingerprint[:DIGITS],
        "stage": record.title,
        "differs": record.differs or NO_VALUE,
        "state": state_text(record),
        "result": measure_text(record.measure),
        "age": format_seconds(age_seconds(record)),
        "size": format_bytes(record.bytes),
    }


def state_text(record: RunRecord) -> str:
    """Return the state, with how far a training is."""
    share = f" {record.progress.share:.0%}" if record.progress else ""
    return f"{record.state}{share}"


def measure_text(measure: Measure | None) -> str:
    if measure is None:
        return NO_VALUE
    unit = SHORT_UNITS.get(measure.unit, "")
    return f"{measure.text} {unit}".strip()


def _print_groups(records: list[RunRecord], form: str) -> None:
    """Print a line for all stages that differ in the seed alone."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        differs = _without_seed(record)
        groups.setdefault((record.title, differs), []).append(record)
    rows, texts = [], []
    for (title, differs), members in groups.items():
        values = [m.measure for m in members if m.measure]
        seeds = sorted(str(m.seed) for m in members if m.seed is not None)
        row = {"stage": title, "differs": differs, "seeds": seeds}
        rows.append(row | spread(values) | {"dials": members[0].dials})
        texts.append(
            {
                "stage": title,
                "differs": differs or NO_VALUE,
                "n": str(len(values)),
                "result": spread_text(values),
                "unit": SHORT_UNITS.get(values[0].unit, "") if values else "",
                "seeds": " ".join(seeds) or NO_VALUE,
            }
        )
    print_rows(GROUP_COLUMNS, rows, form, texts)


def _without_seed(record: RunRecord) -> str:
    suffix = "" if record.seed is None else f"s{record.seed}"
    return record.differs.removesuffix(suffix).rstrip()


def spread(measures: Sequence[Measure]) -> dict[str, Any]:
    """Return n, mean and sample standard deviation, as JSON and CSV have them."""
    values = [measure.value for measure in measures]
    return {
        "n": len(values),
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "unit": measures[0].unit if measures else None,
    }


def spread_text(measures: Sequence[Measure]) -> str:
    """Return mean and standard deviation with the decimals of the measure."""
    if not measures:
        return NO_VALUE
    numbers = spread(measures)
    decimals = measures[0].decimals
    text = f"{numbers['mean']:.{decimals}f}"
    return text if len(measures) < 2 else f"{text} ± {numbers['std']:.{decimals}f}"


def _print_dial_tables(records: list[RunRecord], dials: str, form: str) -> None:
    """Print, for each kind of results, the means over one dial against another."""
    keys = dials.split(",")
    known = {*known_keys(), *config_groups(), *SIDES}
    wrong = [k for k in keys if k not in known and not is_part_key(k)]
    if len(keys) != 2 or wrong:
        hint = did_you_mean(wrong[0], known_keys()) if wrong else ""
        raise ConfigError(
            f"table={dials}: give two dials, such as"
            f" table=decoder.width,decoder.depth, or table=encoder,set{hint}"
        )
    check_part_keys(keys, records)
    down, across = keys
    rows: list[dict[str, Any]] = []
    # encoders, and sets, stand beside each other: titles would part them
    title_of = how_measured if set(keys) & {*SIDES} else _title
    titles = list(dict.fromkeys(map(title_of, records)))
    for title in titles:
        cells = _cells([r for r in records if title_of(r) == title and r.measure], keys)
        if not cells:
            continue
        rows += [
            {"stage": title, down: i, across: j} | spread(_measures(members))
            for (i, j), members in cells.items()
        ]
        if form == "text":
            _print_dial_table(title, cells, keys)
    if form != "text":
        print_rows((), rows, form, ())
    elif not rows:
        print_line(f"no finished stage depends on both {down} and {across}")


def how_measured(record: RunRecord) -> str:
    """Return the title without what it names of the encoder and the set."""
    return plain_title(record.title, record.kind, record.start, record.config)


def _title(record: RunRecord) -> str:
    return record.title


# finished stages by the values of two dials
Cells = dict[tuple[Any, Any], list[RunRecord]]


def _cells(records: list[RunRecord], keys: list[str]) -> Cells:
    cells: Cells = {}
    for record in records:
        pair = [record_value(record, key) for key in keys]
        if None not in pair:
            words = [tuple(v) if isinstance(v, list) else v for v in pair]
            cells.setdefault((words[0], words[1]), []).append(record)
    return cells


def _measures(records: Iterable[RunRecord]) -> list[Measure]:
    return [record.measure for record in records if record.measure]


def _print_dial_table(title: str, cells: Cells, keys: list[str]) -> None:
    down, across = keys
    heads = sorted({j for _, j in cells}, key=_sort_key)
    columns = [Column(down, "dial")]
    columns += [
        Column(f"{across}={format_value(head)}", str(i), is_number=True)
        for i, head in enumerate(heads)
    ]
    texts = []
    for value in sorted({i for i, _ in cells}, key=_sort_key):
        members = [_measures(cells.get((value, head), [])) for head in heads]
        texts.append(
            {"dial": format_value(value)}
            | {
                str(i): f"{spread_text(m)} (n={len(m)})" if m else NO_VALUE
                for i, m in enumerate(members)
            }
        )
    unit = _measures(next(iter(cells.values())))[0].unit
    print_line(f"{title}, {unit}: mean ± standard deviation")
    print_table(columns, texts)
    if mixed := _also_differs(cells, keys):
        print_line(f"cells also differ in {', '.join(mixed)}: filter them to one value")
    print_line("")


def _also_differs(cells: Cells, keys: list[str]) -> list[str]:
    """Return the other dials whose values one cell mixes; the seed is meant to be."""
    mixed: dict[str, None] = {}
    for members in cells.values():
        for key in dict.fromkeys(key for m in members for key in m.dials):
            values = {str(m.dials.get(key)) for m in members}
            if len(values) > 1 and key not in keys and not is_of_side(key, tuple(keys)):
                mixed[key] = None
    return list(mixed)


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Return a key that puts numbers in their order, before words."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)
