"""Write the pages of a ledger: runs/index.html, and one page a sweep.

Each is one file that needs no server, no network and no other file.
"""

import base64
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from unmask.commands.runs.output import format_bytes
from unmask.commands.runs.request import Request
from unmask.commands.runs.status import sweep_status
from unmask.config.checks import ConfigError
from unmask.reports.ledger import assets, curves, sweep, table, transfer
from unmask.reports.page_names import FOLDER, file_name, pages_of_stages
from unmask.reports.render import render
from unmask.stages.records import Ledger, RunRecord
from unmask.stages.sweeps import Sweep
from unmask.storage.atomic import write_text

HERE = Path(__file__).parent


def write_pages(request: Request, ledger: Ledger) -> None:
    """Write the page of all runs and those of the named sweeps, or of all; print them.

    Raises ConfigError where the ledger is empty, or has no such sweep.
    """
    if not ledger.records and not ledger.sweeps:
        raise ConfigError(
            f"runs_dir = {ledger.runs_dir}: there are no stages; add"
            " runs_dir=/path/to/runs, or train: python src/train.py"
        )
    sweeps = [_find_sweep(ledger, word) for word in request.words] or ledger.sweeps
    for each in sweeps:
        print(f"The sweep's page: {write_sweep_page(ledger, each).resolve()}")
    print(f"All runs: {write_index(ledger).resolve()}")


def _find_sweep(ledger: Ledger, word: str) -> Sweep:
    named = ledger.sweeps_named(word)
    if len(named) == 1:
        return named[0]
    ids = ", ".join(each.id for each in named or ledger.sweeps) or "none"
    what = "stands for several" if named else "there is no such sweep"
    raise ConfigError(f"{word}: {what}; the sweeps here: {ids}")


def write_index(ledger: Ledger) -> Path:
    """Write index.html in the ledger's folder, and return its path."""
    path = ledger.runs_dir / "index.html"
    names = {record.key: record.name for record in ledger.records}
    content = _runs(ledger, ledger.records, names, f"{FOLDER}/")
    states = [record.state for record in ledger.records]
    running, failed = states.count("running"), states.count("failed")
    facts = [
        (f"{states.count('done'):,}", "stages done"),
        (str(running), "running"),
        (str(failed), "failed"),
        (format_bytes(sum(record.bytes for record in ledger.records)), "on disk"),
    ]
    text = _render(
        "index.html.j2",
        title=f"Runs in {ledger.runs_dir}",
        facts=facts,
        is_open=running > 0,
        sweeps=[_describe(each, ledger) for each in reversed(ledger.sweeps)],
        transfer=transfer.transfer_table(ledger.records),
        **content,
    )
    write_text(path, text)
    return path


def write_sweep_page(ledger: Ledger, each: Sweep) -> Path:
    """Write a sweep's page and its CSV file, and return the page's path."""
    folder = ledger.runs_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = sweep_page(each)
    cells = sweep.swept_cells(each, ledger)
    records = {r.key: r for cell in cells for r in cell.records}
    points = sweep.points(cells)
    described = _describe(each, ledger)
    names = sweep.stage_names(cells)
    content = _runs(ledger, records.values(), names, "", f"{name}.csv")
    content["data_blocks"] |= _chart("dials", points)
    text = _render(
        "sweep.html.j2",
        title=each.title,
        sweep=described,
        is_open=described["is_open"],
        command=each.command,
        dials=sweep.dials(cells),
        results=list(dict.fromkeys(point["measure"] for point in points)),
        sheets=[
            (title, base64.b64encode(path.read_bytes()).decode())
            for title, path in sweep.sheets(cells)
        ],
        **content,
    )
    write_text(folder / f"{name}.csv", sweep.to_csv(cells))
    path = folder / f"{name}.html"
    write_text(path, text)
    return path


def sweep_page(each: Sweep) -> str:
    """Return the name of the sweep's files, without their suffixes."""
    return file_name(f"sweep {each.title}", each.id)


def _describe(each: Sweep, ledger: Ledger) -> dict[str, Any]:
    """Return what pages say of a sweep; state: the CSS class of its progress."""
    status = sweep_status(each, ledger)
    if status.cells["done"] == len(each.cells):
        state = "done"
    else:
        state = "running" if status.is_open else "interrupted"
    return {
        "title": each.title,
        "page": f"{FOLDER}/{sweep_page(each)}.html",
        "state": "failed" if status.cells["failed"] else state,
        "is_open": status.is_open,
        "progress": status.progress,
        "begun": table.format_time(each.started),
    }


def _runs(
    ledger: Ledger,
    records: Collection[RunRecord],
    names: Mapping[str, str],
    below: str,
    csv: str | None = None,
) -> dict[str, Any]:
    """Return the values of runs.html.j2.

    names: what the page calls stages, by their keys. below: the way from this page to
    the folder of pages.
    """
    pages = pages_of_stages(ledger.runs_dir)
    links = {key: f"{below}{name}" for key, name in pages.items()}
    data = curves.chart_data(records, names)
    with_curve = {run["run"] for run in data}
    return {
        "measures": curves.curve_names(data),
        "columns": table.COLUMNS,
        "filters": table.filters(records),
        "rows": [
            table.row(r, names[r.key], r.key in with_curve, links.get(r.key))
            for r in records
        ],
        "sort": f"{table.BEGUN_COLUMN} desc",
        "csv": csv,
        "data_blocks": _chart("curves", data),
    }


def _chart(name: str, data: list[dict[str, Any]]) -> dict[str, str]:
    """Return the chart's specification and its data, as page.js looks for them."""
    return {
        f"{name}-spec": (HERE / f"{name}.vl.json").read_text(),
        f"{name}-data": assets.escape_script(json.dumps(data, separators=(",", ":"))),
    }


def _render(template: str, **content: Any) -> str:
    script, style = assets.datatables()
    return render(
        HERE / template,
        table_script=script,
        table_style=style,
        vega=assets.vega(),
        page_script=(HERE / "page.js").read_text(),
        **content,
    )
