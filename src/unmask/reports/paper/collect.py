"""Collect an experiment's results, from the ledger or from those kept in experiments/.

A result is known by its stage's fingerprint, so it counts wherever it was made.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from unmask.config.checks import ConfigError
from unmask.config.experiments import Cell, experiment_cells, same_run_message
from unmask.config.paper_facts import Paper
from unmask.config.schema import Config, Scale
from unmask.reports.paper.result_rows import (
    KeptResults,
    ResultRow,
    planned_column_stages,
)
from unmask.stages.drift import changed_files, name_files
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import Listings, Plan, make_plan

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
    # what each seed of a row has taken, by row, where the ledger has all its stages
    seconds: dict[str, list[float]] = field(default_factory=dict)
    # how many rows are kept in experiments/ and not in this ledger
    num_kept: int = 0
    # files of the project that have changed since results in the ledger were made
    changed_files: dict[str, None] = field(default_factory=dict)

    def add_kept(self, rows: list[ResultRow]) -> None:
        """Add rows that are kept in experiments/ alone."""
        self.rows += rows
        self.num_kept += len(rows)

    @property
    def seconds_per_seed(self) -> dict[str, float]:
        """Return by row what one seed takes, with its pretraining, on average."""
        return {row: fmean(seconds) for row, seconds in self.seconds.items()}


def collect_results(
    paper: Paper,
    slug: str,
    scale: Scale,
    compose: Compose,
    runs_dir: str,
    kept: KeptResults,
    unverified: list[ResultRow],
    more_seeds: Collection[int] = (),
) -> CollectedResults:
    """Return each (row, column, seed) of the experiment at that scale with a result.

    kept: the results in experiments/, used where the ledger has none.
    unverified: the kept rows to show where the images are not on this machine, so that
    their fingerprints cannot be checked.
    more_seeds: looked for in each row, up to the first without a result.
    Raise ConfigError where two rows of the table are the same run.
    """
    collected = CollectedResults()
    listings = Listings()
    row_of_stage: dict[tuple[str, str], str] = {}
    ended: set[str] = set()
    for cell in experiment_cells(slug, scale, [*scale.seeds, *more_seeds]):
        if cell.row in ended:
            continue
        if cell.row not in collected.configs:
            collected.configs[cell.row] = compose(cell.overrides)
        config = collected.configs[cell.row].model_copy(
            update={"seed": cell.seed, "runs_dir": runs_dir}
        )
        try:
            listing = listings.of(config)
        except ConfigError as error:
            place = cell.row, cell.seed
            collected.add_kept([r for r in unverified if (r.row, r.seed) == place])
            collected.notes.append(
                f"{slug}: {error}; for these images only the results kept in"
                " experiments/ are known"
            )
            continue
        if listing:
            collected.dataset_size = (len(listing.train), len(listing.classes))
        plan = make_plan(config, listing)
        found = add_results(collected, cell, plan, paper, kept)
        _refuse_same_run(row_of_stage, cell, plan, paper)
        if cell.seed in more_seeds and not found:
            ended.add(cell.row)
            continue
        collected.stage_kinds |= {spec.fingerprint: spec.kind for spec in plan.stages}
        _add_seconds(collected, cell, plan)
    if files := list(collected.changed_files):
        collected.notes.append(
            f"{slug}: {name_files(files)} changed since some of these results were"
            " made; run the sweep with rerun=true to make them anew, or with adopt=true"
        )
    return collected


def _refuse_same_run(
    row_of_stage: dict[tuple[str, str], str], cell: Cell, plan: Plan, paper: Paper
) -> None:
    """Raise ConfigError where a stage of the cell fills another row, too."""
    for column, spec in planned_column_stages(plan, paper, cell.row):
        first = row_of_stage.setdefault((column, spec.fingerprint), cell.row)
        if first != cell.row:
            raise ConfigError(same_run_message(cell.slug, first, cell.row))


def add_results(
    collected: CollectedResults, cell: Cell, plan: Plan, paper: Paper, kept: KeptResults
) -> bool:
    """Add what the cell has measured; return whether that is anything."""
    count = len(collected.rows)
    for column, spec in planned_column_stages(plan, paper, cell.row):
        metric = paper.columns[column].metric
        kept_row = kept.get((metric, spec.fingerprint))
        folder = StageFolder(plan.config.runs_dir, spec)
        _add_result(collected, cell, column, folder, metric, kept_row)
    return len(collected.rows) > count


def _add_seconds(collected: CollectedResults, cell: Cell, plan: Plan) -> None:
    """Note what the cell has taken, where all of its stages are finished."""
    folders = [StageFolder(plan.config.runs_dir, spec) for spec in plan.stages]
    seconds = [_seconds(folder) for folder in folders]
    if None not in seconds:
        collected.seconds.setdefault(cell.row, []).append(sum(filter(None, seconds)))


def _seconds(folder: StageFolder) -> float | None:
    """Return what the stage has taken, where it is finished."""
    try:
        result = folder.result()
    except LedgerError:
        return None
    return float(result["seconds"]) if result else None


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
