"""src/runs.py rm and prune: free space, after saying what it would cost."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from unmask.commands.runs.listing import DIGITS, select, state_text
from unmask.commands.runs.names import find_records
from unmask.commands.runs.output import (
    Column,
    format_bytes,
    format_seconds,
    print_line,
    print_table,
)
from unmask.commands.runs.request import Request
from unmask.commands.units import count_noun
from unmask.stages.disk import MOMENTS
from unmask.stages.ledger import LedgerError, utc_now
from unmask.stages.records import Ledger, RunRecord, files_with_sizes
from unmask.storage.atomic import write_json
from unmask.storage.removed_weights import FILE as REMOVED_FILE

# what `prune` takes where neither filters nor keep= say anything else
UNFINISHED = ("interrupted", "failed", "damaged")
MAX_NAMED = 4
LOCK_SECONDS = 0.5
COLUMNS = (
    Column("id", "id"),
    Column("stage", "stage", folds=True),
    Column("differs", "differs", folds=True),
    Column("state", "state"),
    Column("frees", "frees", is_number=True),
    Column("to make again", "cost", is_number=True),
)


def remove(request: Request, ledger: Ledger) -> None:
    """Remove the named stages, or what keep= does not keep of them."""
    _free(find_records(ledger, request.words), request, ledger)


def prune(request: Request, ledger: Ledger) -> None:
    """Remove the same of all stages that the filters select.

    Without filters: of finished stages with keep=, of unfinished ones without.
    """
    records = select(ledger.records, request)
    if request.options.keep:
        records = [record for record in records if record.state == "done"]
    elif not request.filters:
        records = [record for record in records if record.state in UNFINISHED]
    _free(
        [r for r in records if r.state not in ("running", "stalled")], request, ledger
    )


def _free(records: list[RunRecord], request: Request, ledger: Ledger) -> None:
    """Say what is freed, what depends on it and what it costs; with yes=true do it.

    Raises LedgerError, before anything is removed, for a stage that runs.
    """
    keep = request.options.keep
    _refuse_running(records, ledger)
    if keep:
        _refuse_unfinished([r for r in records if r.state != "done"], keep)
    freed = {record.key: _freed_bytes(record, keep) for record in records}
    records = [record for record in records if freed[record.key]]
    if not records:
        print_line("there is nothing to remove")
        return
    columns = COLUMNS[:-1] if keep == "weights" else COLUMNS
    print_table(columns, [_texts(record, freed[record.key]) for record in records])
    removed = {record.key for record in records}
    for record in [] if keep == "weights" else records:
        _print_children(record, removed, ledger)
    about = "about " if keep == "weights" else ""
    total = format_bytes(sum(freed.values()))
    # weights alone: nothing has to be made again
    cost = sum(record.seconds or 0.0 for record in records)
    again = "" if keep == "weights" else f"; {format_seconds(cost)} to make again"
    what = {"weights": "optimiser states", "results": "weights"}.get(keep or "", "")
    summary = f"{what + ' of ' if what else ''}{count_noun(len(records), 'stage')}"
    if not request.options.yes:
        print_line(f"{summary}, {about}{total}{again}")
        print_line("nothing was removed: yes=true does it")
        return
    before = sum(record.bytes for record in records)
    for record in records:
        _free_one(record, keep)
    after = sum(size for r in records for _, size in files_with_sizes(r.folder))
    print_line(f"{summary} removed, {format_bytes(before - after)}{again}")


def _refuse_running(records: list[RunRecord], ledger: Ledger) -> None:
    for record in records:
        running = [
            each
            for each in (record, *ledger.descendants(record))
            if each.state in ("running", "stalled")
        ]
        if running:
            raise LedgerError(
                f"{record.key}: process {running[0].owner.get('pid')} on"
                f" {running[0].owner.get('host')} works on {running[0].key}; stop it"
                " or wait: python src/runs.py status until=done"
            )


def _refuse_unfinished(records: list[RunRecord], keep: str) -> None:
    if records:
        first = records[0]
        raise LedgerError(
            f"{first.key} is {first.state}: keep={keep} is for finished stages; leave"
            " it out to remove the stage"
        )


def _freed_bytes(record: RunRecord, keep: str | None) -> int:
    """Return the bytes that are freed; of keep=weights, about so many."""
    files = [
        (name, size)
        for name, size in files_with_sizes(record.folder)
        if keep is None or _is_checkpoint(name)
    ]
    if keep != "weights":
        return sum(size for _, size in files)
    if _is_without_optimiser(record):
        return 0
    recipe = record.config.get(record.kind) or {}
    moments = MOMENTS.get(str(recipe.get("optimizer")), 0)
    whole = sum(size for name, size in files if "/step=" in name)
    return round(whole * moments / (1 + moments))


def _is_checkpoint(name: str) -> bool:
    return name.startswith("checkpoints/") and name.endswith((".ckpt", ".damaged"))


def _is_without_optimiser(record: RunRecord) -> bool:
    try:
        entries = json.loads((record.folder / "checkpoints/last.json").read_text())
        return all("whole_sha256" in entry for entry in entries)
    except (OSError, ValueError, TypeError):
        return True


def _texts(record: RunRecord, freed: int) -> dict[str, str]:
    return {
        "id": record.fingerprint[:DIGITS],
        "stage": record.title,
        "differs": record.differs,
        "state": state_text(record),
        "frees": format_bytes(freed),
        "cost": format_seconds(record.seconds),
    }


def _print_children(record: RunRecord, removed: set[str], ledger: Ledger) -> None:
    """Say which stages start from this one and stay."""
    children = [c for c in ledger.descendants(record) if c.key not in removed]
    if not children:
        return
    finished = [child for child in children if child.state == "done"]
    waiting = [child for child in children if child.state != "done"]
    names = ", ".join(child.key for child in children[:MAX_NAMED])
    more = f" and {len(children) - MAX_NAMED} more" if len(children) > MAX_NAMED else ""
    text = (
        f"{record.fingerprint[:DIGITS]}: {count_noun(len(children), 'stage')} from it"
    )
    text += f" ({names}{more})"
    if finished:
        text += f"; {count_noun(len(finished), 'result')} of them stay"
    if waiting:
        text += f"; {len(waiting)} not finished: they need it again"
    print_line(text)


def _free_one(record: RunRecord, keep: str | None) -> None:
    with _own(record):
        if keep == "weights":
            # imports torch, which takes seconds
            from unmask.storage.checkpoints import keep_only_weights

            keep_only_weights(record.folder / "checkpoints")
        elif keep == "results":
            _remove_weights(record)
        else:
            # the result first: without the rest it is no result
            (record.folder / "result.json").unlink(missing_ok=True)
            shutil.rmtree(record.folder)


def _remove_weights(record: RunRecord) -> None:
    folder = record.folder / "checkpoints"
    note = {
        "when": utc_now(),
        "seconds": record.seconds,
        "command": record.origin.command
        if record.origin.overrides
        else "the command that made it, and add",
    }
    write_json(folder / REMOVED_FILE, note)
    for name, _ in files_with_sizes(record.folder):
        if _is_checkpoint(name):
            (record.folder / name).unlink(missing_ok=True)
    for name in ("last.json", "best.json"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _own(record: RunRecord) -> Iterator[None]:
    """Hold the stage's lock; LedgerError where another process has it."""
    lock = FileLock(record.folder / "lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise LedgerError(
            f"{record.key}: another process has begun to work on it; wait for it:"
            " python src/runs.py status until=done"
        ) from None
    try:
        yield
    finally:
        lock.release()
