"""Collect an experiment's results, from the ledger or from those kept in experiments/.

A result is known by its stage's fingerprint, so it counts wherever it was made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config.checks import ConfigError
from unmask.config.experiments import Cell, experiment_cells, same_run_message
from unmask.config.paper_facts import Paper
from unmask.config.schema import Config, Scale
from unmask.data.listing.listing import Listing
from unmask.reports.paper.result_rows import (
    KeptResults,
    ResultRow,
    planned_column_stages,
)
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import list_dataset, make_plan

# overrides of the command line -> the checked config
Compose = Callable[[Sequence[str]], Config]


@dataclass
class CollectedResults:
    """The results of an experiment at one scale, and what they were made with."""

    rows: list[ResultRow] = field(default_factory=list)
    # by the table's row
    configs: dict[str, Config] = field(default_factory=dict)
    # training images and classes, where the data is a folder of images
    dataset_size: tuple[int, int] | None = None
    # the kind of each stage of all seeds, by fingerprint
    stage_kinds: dict[str, str] = field(default_factory=dict)
    # what a reader of the numbers must know
    notes: list[str] = field(default_factory=list)
    # how many rows are kept in experiments/ and not in this ledger
    num_kept: int = 0

    def add(
        self, slug: str, ledger_row: ResultRow | None, kept_row: ResultRow | None
    ) -> None:
        """Add the ledger's row, else the kept one; note where the two disagree."""
        if ledger_row and kept_row and ledger_row.value != kept_row.value:
            self.notes.append(
                f"{slug}, row {ledger_row.row}, {ledger_row.column}, seed"
                f" {ledger_row.seed}: the ledger has {ledger_row.value}, experiments/"
                f" keeps {kept_row.value} for the same fingerprint; the ledger's is"
                " used"
            )
        if ledger_row:
            self.rows.append(ledger_row)
        elif kept_row:
            self.rows.append(kept_row)
            self.num_kept += 1

    def add_without_images(
        self, slug: str, kept_rows: list[ResultRow], error: ConfigError
    ) -> None:
        """Add kept rows as they are: without the images there is no fingerprint."""
        self.rows += kept_rows
        self.num_kept += len(kept_rows)
        self.notes.append(
            f"{slug}: {error}; for these images only the results kept in experiments/"
            " are known"
        )


def collect_results(
    paper: Paper,
    slug: str,
    scale: Scale,
    compose: Compose,
    runs_dir: str,
    kept: KeptResults,
    unverified: list[ResultRow],
) -> CollectedResults:
    """Return each (row, column, seed) of the experiment at that scale with a result.

    kept: the results in experiments/, used where the ledger has none.
    unverified: the kept rows to show where the images are not on this machine, so that
    their fingerprints cannot be checked.
    Raise ConfigError where two rows of the table are the same run.
    """
    collected = CollectedResults()
    # A million files are listed once, not for every cell.
    listings: dict[str, Listing | None] = {}
    row_of_stage: dict[tuple[str, str], str] = {}
    for cell in experiment_cells(slug, scale):
        if cell.row not in collected.configs:
            collected.configs[cell.row] = compose(cell.overrides)
        config = collected.configs[cell.row].model_copy(
            update={"seed": cell.seed, "runs_dir": runs_dir}
        )
        try:
            listing = _list_once(config, listings)
        except ConfigError as error:
            rows = [r for r in unverified if (r.row, r.seed) == (cell.row, cell.seed)]
            collected.add_without_images(slug, rows, error)
            continue
        if listing:
            collected.dataset_size = (len(listing.train), len(listing.classes))
        plan = make_plan(config, listing)
        collected.stage_kinds |= {spec.fingerprint: spec.kind for spec in plan.stages}
        for column, spec in planned_column_stages(plan, paper, cell.row):
            first = row_of_stage.setdefault((column, spec.fingerprint), cell.row)
            if first != cell.row:
                raise ConfigError(same_run_message(slug, first, cell.row))
            metric = paper.columns[column].metric
            _add_result(collected, cell, spec, column, metric, runs_dir, kept)
    return collected


def _list_once(config: Config, listings: dict[str, Listing | None]) -> Listing | None:
    """Return the listing of the config's images; raise ConfigError without them."""
    data = config.data
    key = f"{data.source} {data.root} {data.holdout}"
    if key not in listings:
        listings[key] = list_dataset(data, config.source)
    return listings[key]


def _add_result(
    collected: CollectedResults,
    cell: Cell,
    spec: StageSpec,
    column: str,
    metric: str,
    runs_dir: str,
    kept: KeptResults,
) -> None:
    ledger_row = None
    try:
        ledger_row = _read_ledger_row(spec, runs_dir, cell, column, metric)
    except LedgerError as error:
        collected.notes.append(str(error))
    kept_row = kept.get((metric, spec.fingerprint))
    if kept_row:
        # The same stage may stand in another table, under another name.
        kept_row = kept_row._replace(row=cell.row, column=column)
    collected.add(cell.slug, ledger_row, kept_row)


def _read_ledger_row(
    spec: StageSpec, runs_dir: str, cell: Cell, column: str, metric: str
) -> ResultRow | None:
    result = StageFolder(Path(runs_dir), spec).result()
    if result is None:
        return None
    values: dict[str, Any] = {**result["metrics"], "seconds": result["seconds"]}
    if metric not in values:
        return None
    return ResultRow(
        row=cell.row,
        column=column,
        seed=cell.seed,
        value=float(values[metric]),
        images=int(result["images"]),
        fingerprint=spec.fingerprint,
        pretrain=spec.parent.fingerprint if spec.parent else "",
    )
