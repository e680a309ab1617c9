"""hydra/sweeper=experiment: a sweep over the tables of the paper.

`-m experiment=decoder_depth,mask_ratio scale=embedded` runs every cell of those tables;
cells that two tables share are run once. What names no table is swept as Hydra's basic
sweeper does.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.deciding import decide, read_question
from hydra_plugins.one_precision import asks_for_auto, settle_typed_precision
from unmask.commands.cli import fail
from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check
from unmask.config.deciding import Decide
from unmask.config.experiments import (
    SMALLEST_SCALE,
    Cell,
    expand_experiments,
    experiment_cells,
    is_sweep,
    read_paper,
    read_scale,
    same_run_message,
)
from unmask.config.overrides import without_plus
from unmask.config.recipes import LABELLED_STAGES
from unmask.dashboards.trackio_run import refuse_missing_trackio
from unmask.distributed.ranks import rank_info
from unmask.reports.paper.result_rows import (
    has_kept_results,
    planned_column_stages,
    read_kept_results,
)
from unmask.stages.checked_cells import publish_checked_cells
from unmask.stages.devices import refuse_uneven_batches
from unmask.stages.disk import refuse_small_disk
from unmask.stages.plan import Listings, Plan, make_plan
from unmask.stages.sweeps import SWEEP_VARIABLE, hold_sweep, write_sweep

# of one cell, as typed
Overrides = tuple[str, ...]


@dataclass
class ExperimentSweeperConfig:
    """Declare the sweeper's options.

    skip_kept: leave out cells whose results are all kept in experiments/. decide,
    seeds_max, hours: add seeds until claims are decided (unmask.config.deciding).
    """

    _target_: str = "hydra_plugins.experiment_sweeper.ExperimentSweeper"
    params: dict[str, str] = field(default_factory=dict)
    skip_kept: bool = False
    decide: bool = False
    seeds_max: int | None = None
    hours: float | None = None


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="experiment",
    node=ExperimentSweeperConfig,
    provider="unmask",
)


class ExperimentSweeper(BasicSweeper):
    """Sweep as Hydra's basic sweeper does, and over the tables of the paper."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        skip_kept: bool = False,
        decide: bool = False,
        seeds_max: int | None = None,
        hours: float | None = None,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.wanted = Decide(decide=decide, seeds_max=seeds_max, hours=hours)
        self.skip_kept = skip_kept
        # the file that lists the cells, for those who look at the ledger
        self.record: Path | None = None

    def sweep(self, arguments: list[str]) -> Any:
        """Check all cells, then launch them together.

        Exits with 2 where one is wrong, before any starts.
        """
        params = [f"{key}={value}" for key, value in self.params.items()]
        typed = [*params, *without_plus(arguments)]
        try:
            if asks_for_auto(typed):
                first = cells_by_table(typed)[0]
                typed = settle_typed_precision(typed, first.overrides)
            if self.wanted.decide:
                self._decide(typed)
                return
            overrides = self._cells_to_run(cells_by_table(typed), typed)
        except ConfigError as error:
            fail(str(error), 2)
        self._launch(overrides)

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        """Make the launcher; keep what makes another one for each later round."""
        self.renew_launcher = partial(
            super().setup,
            hydra_context=hydra_context,
            task_function=task_function,
            config=config,
        )
        self.renew_launcher()

    def _decide(self, typed: list[str]) -> None:
        """Run rounds of cells until the claims of the tables are decided."""
        refuse_several_starts()
        others = [
            argument
            for argument in typed
            if argument.partition("=")[0] not in ("experiment", "scale", "seed")
        ]
        question = read_question(typed_values(typed), _product(others))
        is_first = True

        def launch(cells: Sequence[Cell]) -> None:
            nonlocal is_first
            if not is_first:
                # a launcher's folders last for one launch
                self.renew_launcher()
            is_first = False
            self._launch(
                self._cells_to_run([_table_cell(cell) for cell in cells], typed)
            )

        def plan(cells: Sequence[Cell]) -> dict[Overrides, Plan]:
            return check_cells([_table_cell(cell) for cell in cells])

        decide(question, self.wanted, plan, launch, self.skip_kept)

    def _launch(self, overrides: list[Overrides]) -> None:
        assert self.launcher is not None
        if overrides:
            _add_project_to_python_path()
            with hold_sweep(self.record):
                self.launcher.launch(overrides, initial_job_idx=0)

    def _cells_to_run(
        self, cells: list["TableCell"], typed: list[str]
    ) -> list[Overrides]:
        """Return the overrides of each cell once, all of them checked."""
        refuse_several_starts()
        plans = check_cells(cells)
        overrides = list(plans)
        if self.skip_kept:
            overrides = cells_without_kept_results(cells, plans)
            if len(overrides) < len(plans):
                print(
                    f"{len(plans) - len(overrides)} of {len(plans)} cells are not run:"
                    " their results are kept in experiments/ (python src/report.py"
                    " prints them)"
                )
        # each cell compares itself with these: the project may change meanwhile
        if overrides:
            publish_checked_cells(plans.values())
            tables: dict[Overrides, list[tuple[str, str]]] = {}
            for table, row, cell in cells:
                tables.setdefault(cell, []).extend([(table, row)] if table else [])
            wanted = {cell: plans[cell] for cell in overrides}
            self.record = write_sweep(wanted, tables, typed)
            if self.record:
                # cells inherit it
                os.environ[SWEEP_VARIABLE] = self.record.stem
        return overrides


def refuse_several_starts() -> None:
    """Raise ConfigError where torchrun or srun has started the sweep on every rank."""
    if ranks := rank_info():
        raise ConfigError(
            f"-m was started {ranks.world_size} times at once; start it once: it starts"
            " the cells"
        )


def _table_cell(cell: Cell) -> "TableCell":
    return TableCell(cell.slug, cell.row, cell.overrides)


def _add_project_to_python_path() -> None:
    """Let submitit's jobs find this project.

    They unpickle what they run before they could extend sys.path.
    """
    source = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{source}{os.pathsep}{before}" if before else source


class TableCell(NamedTuple):
    """Name a cell of a sweep and the table's row that it fills.

    Both names are empty where the sweep is no table.
    """

    table: str
    row: str
    overrides: Overrides


def cells_by_table(arguments: list[str]) -> list[TableCell]:
    """Return the cells of each table; a cell of two tables comes twice.

    Raises ConfigError for an unknown experiment or scale, and where no cell is left.
    """
    values = typed_values(arguments)
    if not is_sweep(values.get("experiment", "")):
        return [TableCell("", "", cell) for cell in _product(arguments)]
    tables = expand_experiments(values["experiment"])
    if "scale" not in values:
        print(f"scale={SMALLEST_SCALE}, since none was given", file=sys.stderr)
    scales = values.get("scale", SMALLEST_SCALE)
    seeds = parse_seeds(values.get("seed"))
    others = [
        argument
        for argument in arguments
        if argument.partition("=")[0] not in ("experiment", "scale", "seed")
    ]
    # other overrides may be swept, too: each of their values makes a table
    cells = [
        TableCell(table, cell.row, (*cell.overrides, *more))
        for scale in map(read_scale, scales.split(","))
        for table in tables
        for cell in experiment_cells(table, scale, seeds)
        for more in _product(others)
    ]
    if not cells:
        raise ConfigError(f"scale={scales} leaves out every row of {', '.join(tables)}")
    return cells


def check_cells(cells: list[TableCell]) -> dict[Overrides, Plan]:
    """Return the plan of every cell by its overrides, each once.

    Raises ConfigError with all that is wrong in any of them.
    """
    plans: dict[Overrides, Plan] = {}
    faults = []
    composer = Composer()
    listings = Listings()
    # tables share cells
    for overrides in dict.fromkeys(cell.overrides for cell in cells):
        try:
            plans[overrides] = _plan_cell(composer, overrides, listings)
        except ConfigError as error:
            faults.append(cell_fault(overrides, error))
    if not faults:
        faults = _table_faults(cells, plans) or _foreign_faults(plans)
    if faults:
        unique = "\n".join(dict.fromkeys(faults))
        raise ConfigError(f"no cell was started:\n{unique}")
    refuse_small_disk(plans.values())
    for plan in plans.values():
        refuse_missing_trackio(plan.config)
    return plans


def _plan_cell(composer: Composer, overrides: Overrides, listings: Listings) -> Plan:
    config = check(composer(overrides))
    plan = make_plan(config, listings.of(config))
    trainer = plan.config.trainer
    # trainer.devices=null is the number of GPUs where the cell runs, perhaps elsewhere
    if trainer.devices is not None:
        refuse_uneven_batches(plan, trainer.devices * trainer.nodes)
    return plan


def _foreign_faults(plans: dict[Overrides, Plan]) -> list[str]:
    """Return what is wrong with samplers and targets of the user's in any cell."""
    faults = []
    for overrides, plan in plans.items():
        if plan.config.has_foreign_parts:
            # building them takes torch, which takes seconds
            from unmask.training.foreign_parts import check_foreign_parts

            try:
                check_foreign_parts(plan.config)
            except ConfigError as error:
                faults.append(cell_fault(overrides, error))
    return faults


def _table_faults(cells: list[TableCell], plans: dict[Overrides, Plan]) -> list[str]:
    """Return what makes the cells no table: useless stages, or one run for two rows."""
    faults = []
    # overrides that change nothing give two rows the same fingerprints
    row_of: dict[tuple[str, ...], str] = {}
    for table, row, overrides in cells:
        plan = plans[overrides]
        if table:
            faults += unused_measurements(plan, table, row)
        run = (table, *(spec.fingerprint for spec in plan.stages))
        first_row = row_of.setdefault(run, row)
        if first_row != row:
            faults.append(same_run_message(table, first_row, row))
    return faults


def unused_measurements(plan: Plan, table: str, row: str) -> list[str]:
    """Return the fault of stages that fill no column of the table, if they do not.

    Pretraining alone is no fault: it may be measured later.
    """
    paper = read_paper(table)
    columns = paper.column_stages(paper.row(row))
    measures = any(stage in LABELLED_STAGES for stage in plan.config.stages)
    if not measures or not columns or any(planned_column_stages(plan, paper, row)):
        return []
    return [
        f"experiment={table}: stages={plan.config.stages} fill no column of row {row},"
        f" which takes {', '.join(sorted(set(columns.values())))}; leave stages out, or"
        " sweep without experiment="
    ]


def cells_without_kept_results(
    cells: list[TableCell], plans: dict[Overrides, Plan]
) -> list[Overrides]:
    """Return the cells of which experiments/ does not keep every result.

    Raises ConfigError for a sweep that is no table.
    """
    if not any(cell.table for cell in cells):
        raise ConfigError(
            "hydra.sweeper.skip_kept=true: experiments/ keeps results of the paper's"
            f" tables alone, and these {len(cells)} cells are of none; name one"
            " (experiment=decoder_depth) or leave it out: what is in the ledger is not"
            " run again"
        )
    kept = read_kept_results()
    wanted = [
        cell.overrides
        for cell in cells
        if not has_kept_results(plans[cell.overrides], cell.table, cell.row, kept)
    ]
    return list(dict.fromkeys(wanted))


def cell_fault(overrides: Sequence[str], error: ConfigError) -> str:
    """Return what is wrong with a cell, indented below its overrides."""
    return f"cell {' '.join(overrides)}:\n  " + str(error).replace("\n", "\n  ")


def typed_values(arguments: Sequence[str]) -> dict[str, str]:
    """Return keys and values as typed, without quotes around a value."""
    values = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        values[key] = value.strip("'\"")
    return values


def parse_seeds(text: str | None) -> list[int] | None:
    """Return the seeds of seed=0,1 or seed=range(3); None leaves them to the scale."""
    if text is None:
        return None
    seeds = [
        override.removeprefix("seed=") for (override,) in _product([f"seed={text}"])
    ]
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"seed={text}: give whole numbers such as seed=0,1,2")
    return [int(seed) for seed in seeds]


def _product(arguments: list[str]) -> list[Overrides]:
    """Return all combinations of values, as Hydra's basic sweeper does."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    # one batch, whose size has no limit
    (cells,) = BasicSweeper.split_arguments(overrides, None)
    return [tuple(cell) for cell in cells]
