"""Tell in a table what became of every tensor of a file of weights."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Column, Table

from unmask.exchange.weights import Report, Weights


def report_table(weights: Weights, steps: Mapping[str, Report]) -> Table:
    """Return a table with a row for each kind of change in each step.

    Blocks share a row; the sizes are in the title.
    """
    table = Table(
        "step",
        Column("tensors", overflow="fold"),
        "what became of them",
        title=describe_geometry(weights),
    )
    for step, report in steps.items():
        for tensors, change in _rows(report):
            table.add_row(step, escape(tensors), escape(change))
    return table


def describe_geometry(weights: Weights) -> str:
    """Return the sizes of the model in a line."""
    geometry = weights.geometry
    encoder, decoder = geometry.encoder, geometry.decoder
    rows, columns = geometry.grid
    parts = [
        f"{rows} x {columns} patches of {geometry.patch_size} pixels,"
        f" {geometry.channels} channels",
        f"encoder {encoder.width} x {encoder.depth}, {encoder.heads} heads",
    ]
    if geometry.class_tokens != 1:
        parts.append(f"{geometry.class_tokens} class tokens")
    if decoder:
        parts.append(
            f"decoder {decoder.width} x {decoder.depth}, {decoder.heads} heads"
        )
    if weights.head and "head.weight" in weights.head:
        classes = len(weights.head["head.weight"])
        parts.append(f"{classes} classes of the {weights.pool} feature")
    return "; ".join(parts)


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield f"{len(report.matched)} tensors", "matched, bit for bit"
    # A * for the block's number makes equal changes of all blocks one row.
    changes = Counter(
        (re.sub(r"\.\d+\.", ".*.", name), change)
        for name, change in report.reshaped.items()
    )
    for (name, change), count in sorted(changes.items()):
        times = f" ({count} times)" if count > 1 else ""
        yield f"{name}{times}", f"reshaped: {change}"
    yield from _rows_by_reason("missing, known", report.missing)
    yield from _rows_by_reason("dropped, known", report.dropped)
    for note in report.notes:
        yield "", f"note: {note}"


def _rows_by_reason(kind: str, reasons: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    # One row a reason, with the first of its names.
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, value in reasons.items() if value == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield names[0] + more, f"{kind}: {reason}"
