"""What of an experiment is done: each row's results, from the ledger or from the rows that are kept beside the paper's.

A result is known by its fingerprint, so it counts wherever it was made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config.checks import ConfigError
from unmask.config.experiments import Paper, cells, one_run
from unmask.config.schema import Config, Scale
from unmask.data.listing.listing import Listing
from unmask.reports.paper.result_rows import Kept, ResultRow, asked
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import listed, make_plan

Compose = Callable[[Sequence[str]], Config]


@dataclass
class Gathered:
    """Rows that are done, each row's config, and the size of a folder of images: (to train, classes)."""

    rows: list[ResultRow] = field(default_factory=list)
    configs: dict[str, Config] = field(default_factory=dict)
    listed: tuple[int, int] | None = None
    # kind of each stage of all seeds, by fingerprint
    stages: dict[str, str] = field(default_factory=dict)
    # what a reader of the numbers must know
    notes: list[str] = field(default_factory=list)
    from_kept: int = 0  # rows that this ledger does not have

    def add(self, slug: str, here: ResultRow | None, before: ResultRow | None) -> None:
        """The ledger's row, else the kept one."""
        if here and before and here.value != before.value:
            self.notes.append(
                f"{slug}, row {here.row}, {here.column}, seed {here.seed}: the ledger"
                f" has {here.value}, kept is {before.value} for the same fingerprint;"
                " the ledger's counts"
            )
        self.from_kept += here is None and before is not None
        self.rows += [row for row in (here or before,) if row]


def gather(
    paper: Paper,
    slug: str,
    scale: Scale,
    compose: Compose,
    runs_dir: str,
    kept: Kept,
    unseen: list[ResultRow],
) -> Gathered:
    """Every (row, column, seed) of the experiment at that scale that has a result, in the ledger or among the kept.

    `unseen`: the rows that count as they stand where the images, and so the fingerprints, are not known here. Raises
    ConfigError where two rows are one run.
    """
    found, row_of = Gathered(), dict[tuple[str, str], str]()
    # a million files are listed once, not for every cell
    listings: dict[str, Listing | None] = {}
    for cell in cells(slug, scale):
        if cell.row not in found.configs:
            found.configs[cell.row] = compose(cell.overrides)
        config = found.configs[cell.row].model_copy(
            update={"seed": cell.seed, "runs_dir": runs_dir}
        )
        place = f"{config.data.source} {config.data.root} {config.data.holdout}"
        try:
            listings[place] = listing = (
                listings[place]
                if place in listings
                else listed(config.data, config.source)
            )
        except ConfigError as error:  # the images are not on this machine
            standing = [r for r in unseen if (r.row, r.seed) == (cell.row, cell.seed)]
            found.rows += standing
            found.from_kept += len(standing)
            found.notes.append(
                f"{slug}: {error}; of results for these images only kept ones are known"
            )
            continue
        plan = make_plan(config, listing)
        found.stages |= {spec.fingerprint: spec.kind for spec in plan.stages}
        found.listed = (len(listing.train), len(listing.classes)) if listing else None
        for column, spec in asked(plan, paper, cell.row):
            if row_of.setdefault((column, spec.fingerprint), cell.row) != cell.row:
                raise ConfigError(
                    one_run(slug, row_of[column, spec.fingerprint], cell.row)
                )
            here, metric = None, paper.columns[column].metric
            try:
                here = _result(spec, runs_dir, cell.row, column, cell.seed, metric)
            except LedgerError as error:
                found.notes.append(str(error))
            before = kept.get((metric, spec.fingerprint))
            found.add(
                slug, here, before and before._replace(row=cell.row, column=column)
            )
    return found


def _result(
    spec: StageSpec, runs_dir: str, row: str, column: str, seed: int, metric: str
) -> ResultRow | None:
    result = StageFolder(Path(runs_dir), spec).result()
    if result is None:
        return None
    values: dict[str, Any] = {**result["metrics"], "seconds": result["seconds"]}
    if metric not in values:
        return None
    pretrain = spec.parent.fingerprint if spec.parent else ""
    return ResultRow(
        row,
        column,
        seed,
        float(values[metric]),
        int(result["images"]),
        spec.fingerprint,
        pretrain,
    )
