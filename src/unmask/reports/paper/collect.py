"""Collect an experiment's results, from the ledger or from those kept in experiments/.

A result is known by its stage's fingerprint, so it counts wherever it was made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from unmask.stages.drift import changed_files, name_files
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
    # files of the project that have changed since results in the ledger were made
    changed_files: dict[str, None] = field(default_factory=dict)

    def add_kept(self, rows: list[ResultRow]) -> None:
        """Add rows that are kept in experiments/ alone."""
        self.rows += rows
        self.num_kept += len(rows)


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
    listings: dict[tuple[str, str | None, float], Listing | None] = {}
    row_of_stage: dict[tuple[str, str], str] = {}
    for cell in experiment_cells(slug, scale):
        if cell.row not in collected.configs:
            collected.configs[cell.row] = compose(cell.overrides)
        config = collected.configs[cell.row].model_copy(
            update={"seed": cell.seed, "runs_dir": runs_dir}
        )
        data = config.data
        images = data.source, data.root, data.holdout
        try:
            if images not in listings:
                listings[images] = list_dataset(data, config.source)
        except ConfigError as error:
            place = cell.row, cell.seed
            collected.add_kept([r for r in unverified if (r.row, r.seed) == place])
            collected.notes.append(
                f"{slug}: {error}; for these images only the results kept in"
                " experiments/ are known"
            )
            continue
        if listing := listings[images]:
            collected.dataset_size = (len(listing.train), len(listing.classes))
        plan = make_plan(config, listing)
        collected.stage_kinds |= {spec.fingerprint: spec.kind for spec in plan.stages}
        for column, spec in planned_column_stages(plan, paper, cell.row):
            first = row_of_stage.setdefault((column, spec.fingerprint), cell.row)
            if first != cell.row:
                raise ConfigError(same_run_message(slug, first, cell.row))
            metric = paper.columns[column].metric
            kept_row = kept.get((metric, spec.fingerprint))
            folder = StageFolder(runs_dir, spec)
            _add_result(collected, cell, column, folder, metric, kept_row)
    if files := list(collected.changed_files):
        collected.notes.append(
            f"{slug}: {name_files(files)} changed since some of these results were"
            " made; run the sweep with rerun=true to make them anew, or with adopt=true"
        )
    return collected


def _add_result(
    collected: CollectedResults,
    cell: Cell,
    column: str,
    folder: StageFolder,
    metric: str,
    kept_row: ResultRow | None,
) -> None:
    """Add the ledger's result, else the kept one; note where the two disagree."""
    spec = folder.spec
    result = None
    try:
        result = folder.result()
    except LedgerError as error:
        collected.notes.append(str(error))
    values = {**result["metrics"], "seconds": result["seconds"]} if result else {}
    if result and metric in values:
        collected.changed_files |= dict.fromkeys(changed_files(result))
        value = float(values[metric])
        pretrain = spec.parent.fingerprint if spec.parent else ""
        place = cell.row, column, cell.seed
        collected.rows.append(
            ResultRow(*place, value, int(result["images"]), spec.fingerprint, pretrain)
        )
        if kept_row and kept_row.value != value:
            collected.notes.append(
                f"{cell.slug}, row {cell.row}, {column}, seed {cell.seed}: the ledger"
                f" has {value}, experiments/ keeps {kept_row.value} for the same"
                " fingerprint; the ledger's is used"
            )
    elif kept_row:
        # The same stage may stand in another table, under another name.
        collected.add_kept([kept_row._replace(row=cell.row, column=column)])
