"""The results that are kept beside the paper's numbers: their fingerprints, and whether a row has them all."""

from collections.abc import Collection

from unmask.reports.result_rows import read_rows
from unmask.runs.experiments import EXPERIMENTS, read_paper
from unmask.runs.fingerprint import StageSpec
from unmask.runs.plan import Plan

MEASURED_FROM = ("pretrained", "given", "random")


def measured(plan: Plan, stage: str) -> StageSpec | None:
    """The stage of the plan that a column asks for: the one on trained weights, not its controls."""
    return next((s for s in plan.stages if s.kind == stage and s.start in MEASURED_FROM), None)


def kept_fingerprints() -> set[str]:
    """Of every measured stage in experiments/*/results/*.csv. Raises ConfigError for a damaged file."""
    return {row.fingerprint for path in EXPERIMENTS.glob("*/results/*.csv") for row in read_rows(path)}


def is_kept(plan: Plan, table: str, row: str, known: Collection[str]) -> bool:
    """Whether all that this plan measures for the table's row is known."""
    paper = read_paper(table)
    stages = paper.stages_of(paper.row(row)).values()
    specs = [spec for spec in (measured(plan, stage) for stage in stages) if spec]
    return bool(specs) and all(spec.fingerprint in known for spec in specs)
