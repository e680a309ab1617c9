"""src/runs.py du: what takes the space, by kind of stage and by stage."""

from collections import defaultdict
from typing import Any

from unmask.commands.runs.listing import DIGITS, select
from unmask.commands.runs.output import (
    Column,
    format_bytes,
    print_line,
    print_rows,
    print_table,
)
from unmask.commands.runs.request import Request
from unmask.commands.units import count_noun
from unmask.stages.records import Ledger, RunRecord, files_with_sizes

DEFAULT_LIMIT = 10
PARTS = ("checkpoints", "pictures", "earlier", "other")
KIND_COLUMNS = (
    Column("stage", "stage"),
    *(Column(name, name, is_number=True) for name in ("n", "size", *PARTS)),
)
STAGE_COLUMNS = (
    Column("id", "id"),
    Column("stage", "stage", folds=True),
    Column("differs", "differs", folds=True),
    *(Column(name, name, is_number=True) for name in ("size", "checkpoints")),
)


def print_sizes(request: Request, ledger: Ledger) -> None:
    """Print the sizes of all stages that the filters leave, the largest first."""
    records = select(ledger.records, request)
    parts = {record.key: _parts(record) for record in records}
    records.sort(key=lambda record: -record.bytes)
    if request.options.format != "text":
        rows = [
            {"stage": r.kind, "fingerprint": r.fingerprint, "bytes": r.bytes}
            | parts[r.key]
            for r in records[: request.options.limit]
        ]
        print_rows((), rows, request.options.format, ())
        return
    kinds: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        kinds[record.kind].append(record)
    print_table(
        KIND_COLUMNS,
        [_kind_texts(kind, members, parts) for kind, members in kinds.items()],
    )
    total = sum(record.bytes for record in records)
    print_line(f"{count_noun(len(records), 'stage')}, {format_bytes(total)} in all\n")
    limit = request.options.limit or DEFAULT_LIMIT
    print_table(
        STAGE_COLUMNS,
        [
            {
                "id": r.fingerprint[:DIGITS],
                "stage": r.title,
                "differs": r.differs,
                "size": format_bytes(r.bytes),
                "checkpoints": format_bytes(parts[r.key]["checkpoints"]),
            }
            for r in records[:limit]
        ],
    )
    if len(records) > limit:
        print_line(f"{len(records) - limit:,} more: limit={len(records)} shows all")


def _parts(record: RunRecord) -> dict[str, int]:
    """Return the bytes of each part of a stage's folder."""
    sizes = dict.fromkeys(PARTS, 0)
    for name, size in files_with_sizes(record.folder):
        part = name.partition("/")[0]
        sizes[part if part in PARTS and "/" in name else "other"] += size
    return sizes


def _kind_texts(
    kind: str, members: list[RunRecord], parts: dict[str, dict[str, int]]
) -> dict[str, Any]:
    sums = {part: sum(parts[m.key][part] for m in members) for part in PARTS}
    return {
        "stage": kind,
        "n": f"{len(members):,}",
        "size": format_bytes(sum(member.bytes for member in members)),
        **{part: format_bytes(size) for part, size in sums.items()},
    }
