"""What the step benchmark prints and writes of its results."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from unmask.commands.bench.entries import OURS, SOURCES, Implementation
from unmask.commands.bench.measure import make_table
from unmask.commands.bench.step import StepResults, Timed
from unmask.commands.units import MIB, count_noun, format_number, format_small
from unmask.config.hardware import PRECISION_NAMES, TERA, Precision

# the loss of another implementation of the same thing differs by rounding only
LOSS_TOLERANCE: dict[Precision, float] = {"32-true": 1e-4, "bf16-mixed": 2e-2}
HEADER = ("contestant", "ms", "images/s", "x", "quartiles", "MiB", "GFLOP", "rate")
BEST_HEADER = ("precision", "best setting of a peer", "x", "quartiles")
GIGA = 1e9
# where large products were not measured
NO_RATE = "no rate"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def by_precision(results: StepResults) -> dict[Precision, list[Timed]]:
    """Return the contestants of each precision, in the order of the table."""
    groups: dict[Precision, list[Timed]] = {}
    for timed in results.timed.values():
        groups.setdefault(timed.entry.precision, []).append(timed)
    return groups


def best_settings(group: Sequence[Timed]) -> dict[Implementation, Timed]:
    """Return the fastest setting of each implementation but ours."""
    best: dict[Implementation, Timed] = {}
    for timed in group:
        name = timed.entry.implementation
        if name != OURS and (name not in best or timed.median < best[name].median):
            best[name] = timed
    return best


def result_tables(results: StepResults, spec: dict[str, Any]) -> Iterator[Table]:
    """Yield a table for each precision, and one of the peers' best settings."""
    for precision, group in by_precision(results).items():
        rate = results.rates.get(precision)
        products = f"{rate / TERA:.3g} TFLOP/s" if rate else NO_RATE
        title = (
            f"{spec['model']['name']}, batch {spec['batch']},"
            f" {PRECISION_NAMES[precision]}; large products: {products}"
        )
        yield make_table(title, HEADER, [_row(timed, spec, rate) for timed in group])
    rows = [
        (PRECISION_NAMES[precision], timed.entry.title, *_ratio(timed))
        for precision, group in by_precision(results).items()
        for timed in best_settings(group).values()
    ]
    if rows:
        yield make_table("unmask beside the best setting of each", BEST_HEADER, rows)


def _row(timed: Timed, spec: dict[str, Any], rate: float | None) -> Sequence[str]:
    return (
        timed.entry.title,
        format_number(1000 * timed.median),
        format_number(spec["batch"] / timed.median),
        *(("1", "") if timed.entry.is_reference else _ratio(timed)),
        f"{timed.peak / MIB:,.0f}",
        format_small(timed.facts.flops / GIGA),
        f"{share_of_rate(timed, rate):.0%}" if rate else NO_RATE,
    )


def _ratio(timed: Timed) -> tuple[str, str]:
    """Return the median of the rounds' ratios, and their quartiles."""
    low, high = quartiles(timed.ratios)
    return f"{statistics.median(timed.ratios):.2f}", f"{low:.2f}-{high:.2f}"


def share_of_rate(timed: Timed, rate: float) -> float:
    """Return the FLOP/s of a contestant as a share of those of large products."""
    return timed.facts.flops / timed.median / rate


def remarks(results: StepResults, spec: dict[str, Any]) -> Iterator[str]:
    """Yield what must be known of the table: columns, optimisers, differences."""
    yield (
        f"Medians of {count_noun(spec['rounds'], 'round')} in turn, each contestant in"
        " a process of its own. x: a step's time as a multiple of unmask's in the same"
        " round. MiB: the most memory that the process held, less what it held before"
        " it had a model. GFLOP: of a step's matrix products; rate: their share of"
        " what large products reach."
    )
    yield (
        "Same sizes, images, masks and initial weights, betas 0.9 and 0.95; each with"
        f" the optimiser that it is trained with: {'; '.join(_optimizers(results))}."
    )
    for group in by_precision(results).values():
        reference = next(timed for timed in group if timed.entry.is_reference)
        for timed in group:
            yield from _differences(timed, reference)
    yield from results.notes


def _optimizers(results: StepResults) -> Iterator[str]:
    by_name: dict[Implementation, Timed] = {}
    for timed in results.timed.values():
        # the first is the usual one
        by_name.setdefault(timed.entry.implementation, timed)
    for name, timed in by_name.items():
        package, facts = SOURCES[name].package, timed.facts
        yield f"{name} {facts.optimizer} ({package} {facts.version})"


def _differences(timed: Timed, ours: Timed) -> Iterator[str]:
    """Yield where a contestant does not compute what ours does."""
    title = f"{timed.entry.title}, {PRECISION_NAMES[timed.entry.precision]}"
    loss, expected = timed.facts.loss, ours.facts.loss
    tolerance = LOSS_TOLERANCE[timed.entry.precision]
    if not abs(loss - expected) <= tolerance * abs(expected):
        yield (
            f"{title}, does not compute the same: its first loss is {loss:.5f}, that of"
            f" unmask {expected:.5f}"
        )
    count = timed.facts.parameters
    if count != ours.facts.parameters:
        yield (
            f"{title}, trains {count:,} parameters, unmask {ours.facts.parameters:,}"
        )


def csv_rows(results: StepResults, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row of numbers for each contestant, in SI units but for the names."""
    rows = []
    for timed in results.timed.values():
        entry, facts = timed.entry, timed.facts
        low, high = quartiles(timed.ratios)
        # None, an empty field, where it was not measured
        rate = results.rates.get(entry.precision)
        rows.append(
            {
                "contestant": entry.title,
                "implementation": entry.implementation,
                "version": facts.version,
                "precision": entry.precision,
                "attention": entry.attention,
                "trick": entry.trick,
                "optimizer": facts.optimizer,
                "model": spec["model"]["name"],
                "batch": spec["batch"],
                "rounds": len(timed.seconds),
                "seconds": timed.median,
                "seconds_low": quartiles(timed.seconds)[0],
                "seconds_high": quartiles(timed.seconds)[1],
                "images_per_second": spec["batch"] / timed.median,
                "ratio": statistics.median(timed.ratios),
                "ratio_low": low,
                "ratio_high": high,
                "peak_bytes": timed.peak,
                "parameters": facts.parameters,
                "flops": facts.flops,
                "product_flops_per_second": rate,
                "share": share_of_rate(timed, rate) if rate else None,
                "first_loss": facts.loss,
            }
        )
    return rows
