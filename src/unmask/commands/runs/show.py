"""src/runs.py show: one stage whole."""

from typing import Any

from unmask.commands.runs.listing import measure_text, record_row, state_text
from unmask.commands.runs.names import find_record
from unmask.commands.runs.output import (
    Column,
    format_bytes,
    format_seconds,
    print_line,
    print_rows,
    print_table,
)
from unmask.commands.runs.request import Request
from unmask.commands.units import count_noun
from unmask.config.dials import format_value
from unmask.stages.drift import changed_files, name_files
from unmask.stages.records import Ledger, RunRecord, files_with_sizes

MAX_FILES = 12
# a metric is shown with so many digits
DIGITS = 5
FACTS = (Column("", "name"), Column("", "value", folds=True))


def show(request: Request, ledger: Ledger) -> None:
    """Print what is known of a stage: config, parents, results, times, files, code."""
    record = find_record(ledger, request.words[0])
    files = sorted(files_with_sizes(record.folder), key=lambda f: -f[1])
    if request.options.format != "text":
        row = record_row(record) | {
            "command": record.origin.command if record.origin.overrides else None,
            "metrics": record.metrics,
            "children": [child.key for child in ledger.children(record)],
            "files": dict(files),
            "changed_code": changed_files(record.result or {}),
        }
        print_rows((), [row], request.options.format, ())
        return
    print_line(record.name)
    facts = _facts(record, ledger)
    print_table(FACTS, [{"name": name, "value": text} for name, text in facts])
    if record.metrics:
        print_line("\nresults")
        print_table(
            FACTS,
            [
                {"name": name, "value": f"{value:.{DIGITS}g}"}
                for name, value in record.metrics.items()
            ],
        )
    if record.state in ("failed", "damaged"):
        print_line(f"\n{_error(record)}")
    print_line(f"\nfiles in {record.folder}")
    shown = files[:MAX_FILES]
    rows = [{"name": name, "value": format_bytes(size)} for name, size in shown]
    if rest := files[MAX_FILES:]:
        size = format_bytes(sum(size for _, size in rest))
        rows.append({"name": f"{len(rest)} more", "value": size})
    print_table((Column("", "name"), Column("", "value", is_number=True)), rows)


def _facts(record: RunRecord, ledger: Ledger) -> list[tuple[str, str]]:
    """Return names and values; what is not known is left out."""
    dials = [f"{key}={format_value(value)}" for key, value in record.dials.items()]
    state = state_text(record)
    if record.state in ("running", "stalled") and record.progress:
        left = record.progress.seconds_left
        state += f", step {record.progress.step:,} of {record.progress.steps:,}"
        state += f", {format_seconds(left)} left" if left is not None else ""
    facts = {
        "fingerprint": record.key,
        "state": state,
        "result": f"{measure_text(record.measure)}" if record.measure else "",
        "differs": " ".join(dials) or "nothing from the default",
        "seed": "any" if record.seed is None else str(record.seed),
        "starts from": _parent(record, ledger),
        "used by": ", ".join(
            f"{child.key} ({child.title})" for child in ledger.children(record)
        ),
        "began": _time(record.started),
        "ended": _time(record.ended),
        "took": format_seconds(record.seconds) if record.seconds is not None else "",
        "size": format_bytes(record.bytes),
        "experiment": " ".join(filter(None, [record.experiment, record.cell])),
        "sweep": record.sweep or "",
        "command": record.origin.command if record.origin.overrides else "",
        "process": _owner(record),
        "made with": _versions(record),
        "code": _code(record),
    }
    return [(name, text) for name, text in facts.items() if text]


def _parent(record: RunRecord, ledger: Ledger) -> str:
    if record.parent is None:
        return {"random": "random weights", "given": "given weights"}.get(
            record.start, record.start
        )
    parent = ledger.by_key.get(record.parent)
    return f"{parent.key} ({parent.name})" if parent else f"{record.parent}, removed"


def _time(time: Any) -> str:
    return time.astimezone().isoformat(" ", "seconds") if time else ""


def _owner(record: RunRecord) -> str:
    if not record.owner:
        return ""
    verb = "runs" if record.state in ("running", "stalled") else "ran"
    return f"{record.owner.get('pid')} on {record.owner.get('host')}, {verb}"


def _versions(record: RunRecord) -> str:
    result = record.result or {}
    words = [f"{name} {text}" for name, text in result.get("versions", {}).items()]
    if processes := result.get("processes"):
        noun = "process" if processes == 1 else "processes"
        threads = count_noun(result.get("threads", 1), "thread")
        words.append(f"{processes} {noun} of {threads}")
    return ", ".join(words)


def _code(record: RunRecord) -> str:
    """Say which commit made the result, and what has changed since."""
    result = record.result or {}
    if not result.get("sources"):
        return "not recorded" if record.result else ""
    git = result.get("git") or {}
    commit = f"commit {git['commit'][:12]}" if git.get("commit") else "no commit known"
    if git.get("dirty"):
        commit += " with changes"
    changed = changed_files(result)
    since = f"changed since: {name_files(changed)}" if changed else "the same now"
    return f"{commit}; {since}"


def _error(record: RunRecord) -> str:
    """Return the last line of the error that ended the stage."""
    if record.damage:
        return record.damage
    try:
        lines = (record.folder / "error.txt").read_text().splitlines()
    except OSError:
        return "error.txt cannot be read"
    return f"{lines[-1]}\n({record.folder / 'error.txt'} has the traceback)"
