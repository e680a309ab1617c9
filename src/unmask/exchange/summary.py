"""The table that says what became of every tensor of a file of weights."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Column, Table

from unmask.exchange.weights import Report, Weights


def described(weights: Weights, steps: Mapping[str, Report]) -> Table:
    """A row for each kind of change, blocks together; the sizes in the title."""
    table = Table(
        "step",
        Column("tensors", overflow="fold"),
        "what became of them",
        title=sizes(weights),
    )
    for step, report in steps.items():
        for tensors, what in _rows(report):
            table.add_row(step, escape(tensors), escape(what))
    return table


def sizes(weights: Weights) -> str:
    """The geometry in a line."""
    size, encoder, decoder = (
        weights.geometry,
        weights.geometry.encoder,
        weights.geometry.decoder,
    )
    words = [
        f"{size.grid[0]} x {size.grid[1]} patches of {size.patch_size} pixels,"
        f" {size.channels} channels"
    ]
    words += [f"encoder {encoder.width} x {encoder.depth}, {encoder.heads} heads"]
    words += (
        [f"decoder {decoder.width} x {decoder.depth}, {decoder.heads} heads"]
        if decoder
        else []
    )
    if weights.head and "head.weight" in weights.head:
        words += [
            f"{len(weights.head['head.weight'])} classes of the {weights.pool} feature"
        ]
    return "; ".join(words)


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield f"{len(report.matched)} tensors", "matched, bit for bit"
    alike = Counter(
        (re.sub(r"\.\d+\.", ".*.", name), change)
        for name, change in report.reshaped.items()
    )
    for (name, change), count in sorted(alike.items()):
        yield f"{name} ({count} times)" if count > 1 else name, f"reshaped: {change}"
    for kind, names in (
        ("missing, known", report.missing),
        ("dropped, known", report.dropped),
    ):
        for reason in dict.fromkeys(names.values()):
            those = [name for name, why in names.items() if why == reason]
            more = f" and {len(those) - 1} more" if len(those) > 1 else ""
            yield those[0] + more, f"{kind}: {reason}"
    for note in report.notes:
        yield "", f"note: {note}"
