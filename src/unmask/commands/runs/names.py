"""The stages that a command names, by the first digits of their fingerprints."""

from unmask.config.checks import ConfigError
from unmask.config.recipes import STAGES
from unmask.stages.records import Ledger, RunRecord

MAX_CANDIDATES = 5


def find_record(ledger: Ledger, typed: str) -> RunRecord:
    """Return the stage that a prefix, "kind/prefix" or a folder stands for.

    Raises ConfigError, in one line with the candidates, for none and for several.
    """
    before, _, prefix = typed.rstrip("/").rpartition("/")
    kind = before.rpartition("/")[2]
    found = [
        record
        for record in ledger.records
        if record.fingerprint.startswith(prefix)
        and (kind not in STAGES or record.kind == kind)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{typed}: {len(found)} stages begin so: {candidates(found)}; type more"
            " digits"
        )
    if not ledger.records:
        raise ConfigError(
            f"{typed}: there is no stage in {ledger.runs_dir}; another ledger:"
            " runs_dir=/path/to/runs"
        )
    raise ConfigError(
        f"{typed}: no stage in {ledger.runs_dir} begins so; there are"
        f" {candidates(list(ledger.records[::-1]))}"
    )


def find_records(ledger: Ledger, words: tuple[str, ...]) -> list[RunRecord]:
    """Return the named stages, each once."""
    records = [find_record(ledger, word) for word in words]
    return list({record.key: record for record in records}.values())


def candidates(records: list[RunRecord]) -> str:
    shown = [f"{r.key} ({r.name})" for r in records[:MAX_CANDIDATES]]
    more = len(records) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
