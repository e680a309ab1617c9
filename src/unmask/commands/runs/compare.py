"""src/runs.py compare: only what differs between stages."""

from typing import Any

from unmask.commands.runs.listing import DIGITS, measure_text
from unmask.commands.runs.names import find_records
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
from unmask.config.checks import ConfigError
from unmask.config.dials import flatten, format_value
from unmask.stages.curves import Curve, read_curves
from unmask.stages.measures import is_higher_better
from unmask.stages.records import Ledger, RunRecord
from unmask.stages.scope import depends_on


def compare(request: Request, ledger: Ledger) -> None:
    """Print the config keys, results and curves in which stages differ."""
    records = find_records(ledger, request.words)
    if len(records) < 2:
        raise ConfigError(
            f"{' '.join(request.words)}: all of these are {records[0].key}; name two"
            " stages"
        )
    heads = [record.fingerprint[:DIGITS] for record in records]
    tables = {
        "config": _config_rows(records),
        "results": _result_rows(records),
        "curves": _curve_rows(records),
    }
    if request.options.format != "text":
        rows = [
            {"part": part, "key": key}
            | dict(zip((r.fingerprint for r in records), values, strict=True))
            for part, table in tables.items()
            for key, values in table.items()
        ]
        print_rows((), rows, request.options.format, ())
        return
    for head, record in zip(heads, records, strict=True):
        print_line(f"{head}  {record.name}: {record.state} {_result(record)}".rstrip())
    for part, table in tables.items():
        columns = [Column(part, "key")]
        columns += [Column(h, str(i), is_number=True) for i, h in enumerate(heads)]
        texts = [
            {"key": key} | {str(i): _text(value) for i, value in enumerate(values)}
            for key, values in table.items()
        ]
        print_line("")
        if texts:
            print_table(columns, texts)
        else:
            print_line(f"{part}: no difference in what all of them have")


def _result(record: RunRecord) -> str:
    return measure_text(record.measure) if record.measure else ""


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return NO_VALUE if value is None else format_value(value)


def _differing(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        key: values
        for key, values in table.items()
        if any(value != values[0] for value in values)
    }


def _config_rows(records: list[RunRecord]) -> dict[str, list[Any]]:
    """Return the keys of the config that differ, of those that results depend on."""
    flat = [_flat(record) for record in records]
    # of different kinds of stages, what all of them have
    keys = [key for key in flat[0] if all(key in config for config in flat)]
    rows = {key: [config.get(key) for config in flat] for key in keys}
    kinds = {"stage": [record.title for record in records]}
    return _differing(kinds | rows)


def _flat(record: RunRecord) -> dict[str, Any]:
    values = flatten(record.config)
    seed = {"seed": record.seed}
    return seed | {
        key: value
        for key, value in values.items()
        if key != "seed"
        and not key.startswith("scale.")
        and depends_on(key, record.kind, record.start, record.config)
    }


def _result_rows(records: list[RunRecord]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for record in records for key in record.metrics)
    rows: dict[str, list[Any]] = {
        key: [record.metrics.get(key) for record in records] for key in keys
    }
    rows["state"] = [record.state for record in records]
    rows["took"] = [format_seconds(record.seconds) for record in records]
    rows["size"] = [format_bytes(record.bytes) for record in records]
    return _differing(rows)


def _curve_rows(records: list[RunRecord]) -> dict[str, list[Any]]:
    """Return the best value of each curve, and its value at the last common epoch."""
    all_curves = [read_curves(record.folder) for record in records]
    names = [name for name in all_curves[0] if all(name in c for c in all_curves)]
    rows: dict[str, list[Any]] = {}
    for name in names:
        curves = [each[name] for each in all_curves]
        common = set.intersection(*(set(curve.epochs) for curve in curves))
        if common:
            epoch = max(common)
            at = f"{name} at epoch {epoch:g}"
            rows[at] = [curve.value_at(epoch) for curve in curves]
        if name.startswith(("val/", "watch/")):
            rows[f"best {name}"] = [_best(curve, name) for curve in curves]
    return _differing(rows)


def _best(curve: Curve, name: str) -> str:
    epoch, value = curve.best(is_higher_better(name))
    return f"{value:.5g} (epoch {epoch:g})"
