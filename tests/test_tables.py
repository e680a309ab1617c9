"""Tables of a sweep show each cell's state and numbers, and the spread over seeds."""

import io

from rich.console import Console
from rich.table import Table

from unmask.reports.run.tables import cells_table, mean_and_spread, results_table


def result(title: str, accuracy: float) -> dict:
    metrics = {"val/accuracy": accuracy}
    return {
        "title": title,
        "metrics": metrics,
        "seconds": 2.0,
        "images": 1000,
        "fingerprint": "abc",
        "start": "pretrained",
        "stage": "knn",
    }


def text(table: Table) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_cell_is_headed_by_the_overrides_that_differ() -> None:
    cells = [
        (["stages=[knn]", f"decoder.depth={d}"], "done", [result("kNN", 10.0 * d)])
        for d in (1, 2)
    ]
    shown = text(cells_table(cells))
    assert "decoder.depth=2" in shown
    assert "stages" not in shown
    assert "mean" not in shown


def test_a_cell_without_results_shows_its_state_and_no_number() -> None:
    cells = [
        (["seed=0"], "done", [result("kNN", 50.0)]),
        (["seed=1"], "failed (exit 1)", []),
    ]
    shown = text(cells_table(cells))
    assert "failed (exit 1)" in shown
    assert [line for line in shown.splitlines() if "kNN" in line and " - " in line]


def test_seeds_get_mean_and_spread() -> None:
    cells = [
        ([f"seed={s}"], "done", [result("kNN", a)])
        for s, a in enumerate((80.0, 82.0, 84.0))
    ]
    shown = text(cells_table(cells))
    assert "82.0 +- 2.0" in shown
    assert "n = 3" in shown
    assert mean_and_spread(["1.0"]) == "1.0"
    assert mean_and_spread(["0.4620", "0.4531"]) == "0.4576 +- 0.0063"


def test_a_measurement_has_its_unit() -> None:
    shown = text(results_table([result("kNN, raw pixels", 95.3)]))
    assert "95.3" in shown
    assert "% top-1" in shown


def test_a_sweep_without_results_still_has_a_table() -> None:
    assert "preempted" in text(cells_table([([], "preempted: run me again", [])]))
