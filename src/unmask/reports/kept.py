"""The results that are kept beside the paper's numbers, of every table: a stage measured for one counts for all."""

from collections.abc import Iterator

from unmask.reports.result_rows import ResultRow, ordered, read_rows
from unmask.runs.checks import ConfigError
from unmask.runs.experiments import EXPERIMENTS, Paper, read_paper
from unmask.runs.fingerprint import StageSpec
from unmask.runs.plan import Plan

MEASURED_FROM = ("pretrained", "given", "random")
Kept = dict[tuple[str, str], ResultRow]  # by metric and fingerprint


def measured(plan: Plan, stage: str) -> StageSpec | None:
    """The stage of the plan that a column asks for: the one on trained weights, not its controls."""
    return next((s for s in plan.stages if s.kind == stage and s.start in MEASURED_FROM), None)


def all_kept() -> Kept:
    """Of experiments/*/results/*.csv. Raises ConfigError for a damaged file, or two values of one measurement."""
    found: Kept = {}
    for path in sorted(EXPERIMENTS.glob("*/results/*.csv")):
        paper = read_paper(path.parents[1].name)
        for row in ordered(read_rows(path), paper):
            before = found.setdefault((paper.columns[row.column].metric, row.fingerprint), row)
            if before.value != row.value:
                raise ConfigError(
                    f"{path}: row {row.row!r}, {row.column}, seed {row.seed} is {row.value}, but {before.value} in "
                    f"another table, for the same stage {row.fingerprint}; correct one of them"
                )
    return found


def asked(plan: Plan, paper: Paper, row: str) -> Iterator[tuple[str, StageSpec]]:
    """Each column of ours in the table's row, with the stage of the plan that fills it."""
    for column, stage in paper.stages_of(paper.row(row)).items():
        spec = measured(plan, stage)
        if spec is not None:
            yield column, spec


def is_kept(plan: Plan, table: str, row: str, known: Kept) -> bool:
    """Whether all that this plan measures for the table's row is known."""
    paper = read_paper(table)
    wanted = [(paper.columns[column].metric, spec.fingerprint) for column, spec in asked(plan, paper, row)]
    return bool(wanted) and all(key in known for key in wanted)
