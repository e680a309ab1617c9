"""hydra/sweeper=experiment: -m experiment=decoder_depth,mask_ratio scale=embedded runs every cell of those tables.

What is no table of the paper is swept as Hydra's basic sweeper does. Cells that two tables share are run once.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.composition import Composer
from unmask.commands.cli import fail
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import (
    SMALLEST_SCALE,
    cells,
    is_sweep,
    one_run,
    read_paper,
    read_scale,
    tables_of,
)
from unmask.config.schema import LABELLED
from unmask.distributed.ranks import rank_info
from unmask.reports.paper.result_rows import all_kept, asked, is_kept
from unmask.stages.devices import refuse_uneven
from unmask.stages.plan import Plan, agree, make_plan


@dataclass
class ExperimentSweeperConfig:
    _target_: str = "hydra_plugins.experiment_sweeper.ExperimentSweeper"
    params: dict[str, str] = field(default_factory=dict)
    # cells whose results are all kept in experiments/ are not run
    skip_kept: bool = False


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="experiment",
    node=ExperimentSweeperConfig,
    provider="unmask",
)


class ExperimentSweeper(BasicSweeper):
    """Hydra's basic sweeper, which knows the tables of the paper."""

    def __init__(
        self, params: dict[str, str] | None = None, skip_kept: bool = False
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.skip_kept = skip_kept

    def sweep(self, arguments: list[str]) -> Any:
        """All cells are checked, then launched together; what a cell raised is raised when the others are done."""
        assert self.launcher is not None
        try:
            if started := rank_info():
                raise ConfigError(
                    f"-m was started {started.size} times at once; start it once: it"
                    " starts the cells"
                )
            listed = cells_by_table(
                [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
            )
            plans = checked(listed)
            wanted = (
                missing(listed, plans)
                if self.skip_kept
                else [list(overrides) for overrides in plans]
            )
        except ConfigError as error:
            fail(str(error), 2)
        if len(wanted) < len(plans):
            print(
                f"{len(plans) - len(wanted)} of {len(plans)} cells are not run: their"
                " results are kept in experiments/ (python src/report.py prints them)"
            )
        if not wanted:
            return [[]]
        agree(plans.values())
        # submitit's jobs unpickle what they run before they know where this project
        # lies
        places = [
            str(Path(__file__).parents[1]),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
        returns = self.launcher.launch(wanted, initial_job_idx=0)
        if failed := [
            line
            for cell, returned in zip(wanted, returns, strict=True)
            for line in _fault(cell, returned)
        ]:
            fail(
                f"{len(failed)} of {len(wanted)} cells failed; the same command redoes"
                " them alone:\n" + "\n".join(failed),
                1,
            )
        return [returns]


class TableCell(NamedTuple):
    """A cell of a sweep and the row of the table that it fills; both names are empty where there is no table."""

    table: str
    row: str
    overrides: list[str]


def checked(listed: list[TableCell]) -> dict[tuple[str, ...], Plan]:
    """The plan of every cell, each once. Raises ConfigError with what is wrong in any, before the first starts."""
    plans: dict[tuple[str, ...], Plan] = {}
    faults, composer = [], Composer()
    for overrides in dict.fromkeys(tuple(cell.overrides) for cell in listed):
        try:
            plan = plans[overrides] = make_plan(check(composer(overrides)))
            # else the machine that works on the cell says how many
            if plan.config.trainer.devices is not None:
                refuse_uneven(
                    plan, plan.config.trainer.devices * plan.config.trainer.nodes
                )
        except ConfigError as error:
            faults.append(cell_fault(overrides, error))
    row_of: dict[tuple[str, ...], str] = {}
    for table, row, cell in listed if not faults else ():
        faults += unasked(plans[tuple(cell)], table, row) if table else []
        stages = table, *(spec.fingerprint for spec in plans[tuple(cell)].stages)
        if row_of.setdefault(stages, row) != row:
            faults.append(one_run(table, row_of[stages], row))
    if faults:
        raise ConfigError("no cell was started:\n" + "\n".join(dict.fromkeys(faults)))
    return plans


def unasked(plan: Plan, table: str, row: str) -> list[str]:
    """The fault of measurements that fill no column of the table; pretraining alone is fair: measure it later."""
    paper, measuring = (
        read_paper(table),
        [stage for stage in plan.config.stages if stage in LABELLED],
    )
    columns = paper.stages_of(paper.row(row))
    if not measuring or not columns or any(asked(plan, paper, row)):
        return []
    return [
        f"experiment={table}: stages={plan.config.stages} fill no column of row {row},"
        f" which takes {', '.join(sorted(set(columns.values())))}; leave stages out, or"
        " sweep without experiment="
    ]


def missing(
    listed: list[TableCell], plans: dict[tuple[str, ...], Plan]
) -> list[list[str]]:
    """The cells that fill a row of some table of which experiments/ does not keep every result.

    Raises ConfigError for a sweep that is no table.
    """
    if not any(cell.table for cell in listed):
        raise ConfigError(
            "hydra.sweeper.skip_kept=true: experiments/ keeps results of the paper's"
            " tables alone, and this sweep is none; name one (experiment=decoder_depth)"
            " or leave it out: what is in the ledger is not run again"
        )
    known = all_kept()
    wanted = (
        tuple(c.overrides)
        for c in listed
        if not is_kept(plans[tuple(c.overrides)], c.table, c.row, known)
    )
    return [list(overrides) for overrides in dict.fromkeys(wanted)]


def cell_fault(overrides: Sequence[str], error: ConfigError) -> str:
    """What is wrong with a cell, below its name."""
    return f"cell {' '.join(overrides)}:\n  " + str(error).replace("\n", "\n  ")


def _fault(cell: list[str], returned: JobReturn) -> list[str]:
    """A line for a cell that failed."""
    if returned.status == JobStatus.COMPLETED:
        return []
    try:
        return [f"cell {' '.join(cell)}: {returned.return_value}"]
    except Exception as error:
        return [f"cell {' '.join(cell)}: {error}"]


def cells_by_table(arguments: list[str]) -> list[TableCell]:
    """The cells of each table, whole."""
    given = told(arguments)
    if not is_sweep(given.get("experiment", "")):
        return [TableCell("", "", cell) for cell in _plain(arguments)]
    tables = tables_of(given["experiment"])
    if "scale" not in given:
        print(f"scale={SMALLEST_SCALE}, as none was given", file=sys.stderr)
    scales, seeds = given.get("scale", SMALLEST_SCALE), seeds_of(given.get("seed"))
    rest = [
        argument
        for argument in arguments
        if argument.partition("=")[0] not in ("experiment", "scale", "seed")
    ]
    found = [
        TableCell(slug, cell.row, [*cell.overrides, *more])
        for scale in map(read_scale, scales.split(","))
        for slug in tables
        for cell in cells(slug, scale, seeds)
        for more in _plain(rest)
    ]
    if not found:
        raise ConfigError(f"scale={scales} leaves out every row of {', '.join(tables)}")
    return found


def told(arguments: Sequence[str]) -> dict[str, str]:
    """Keys and values as typed, without quotes around a whole value."""
    return {
        key: value.strip("'\"")
        for key, _, value in (argument.partition("=") for argument in arguments)
    }


def seeds_of(text: str | None) -> list[int] | None:
    """seed=0,1 or seed=range(3) on the command line instead of the scale's."""
    if text is None:
        return None
    found = [
        dict(override.split("=", 1) for override in cell)["seed"]
        for cell in _plain([f"seed={text}"])
    ]
    if not all(value.isdecimal() for value in found):
        raise ConfigError(f"seed={text}: give whole numbers such as seed=0,1,2")
    return [int(value) for value in found]


def _plain(arguments: list[str]) -> list[list[str]]:
    """The product of all values, as Hydra's basic sweeper has it."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    (cells,) = BasicSweeper.split_arguments(overrides, None)
    return [list(cell) for cell in cells]
