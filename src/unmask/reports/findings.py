"""Everything that is finished of the paper's experiments, at every scale, set beside the paper."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from unmask.reports.comparison import Section, compare
from unmask.reports.differences import differences
from unmask.reports.gather import Gathered, gather
from unmask.reports.result_rows import ResultRow, read_rows
from unmask.runs.arguments import Report
from unmask.runs.checks import ConfigError
from unmask.runs.experiments import CONF, EXPERIMENTS, Cell, Paper, cells, read_paper, read_scale, tables_of
from unmask.runs.schema import Config, Scale

Compose = Callable[[Sequence[str]], Config]


class Finding(NamedTuple):
    """A table of the paper beside ours, and the rows it was made of."""

    section: Section
    rows: list[ResultRow]


PAPER = "paper"
SCALE = re.compile(r"^ +scale:\n +name: (\S+)$", re.MULTILINE)  # in a stage's config.yaml
ELSEWHERE = "data.root=/not/here"  # the paper's protocol is compared, not run


def kept_results(slug: str, scale: str) -> Path:
    return EXPERIMENTS / slug / "results" / f"{scale}.csv"


def findings(given: Report, compose: Compose) -> list[Finding]:
    """The asked experiments in the paper's order, each at its scales; without a scale, those that have results.

    Raises ConfigError for an experiment or scale that there is not.
    """
    scales = given.scale.split(",") if given.scale else _with_results(given.runs_dir)
    found = []
    for slug in tables_of(given.experiment):
        paper = read_paper(slug)
        for scale in map(read_scale, scales):
            finding = _finding(paper, slug, scale, given, compose)
            content = finding.section.content
            if content.done or (given.scale and content.expected):
                found.append(finding)
    return found


def _with_results(runs_dir: str) -> list[str]:
    """The scales of which the ledger has a stage, or experiments/ kept results: others need not be composed."""
    kept = {path.stem for path in EXPERIMENTS.glob("*/results/*.csv")}
    texts = (path.read_text() for path in Path(runs_dir).glob("*/*/config.yaml"))
    made = {match.group(1) for match in map(SCALE.search, texts) if match}
    return [path.stem for path in sorted((CONF / "scale").glob("*.yaml"), reverse=True) if path.stem in kept | made]


def _finding(paper: Paper, slug: str, scale: Scale, given: Report, compose: Compose) -> Finding:
    path = kept_results(slug, scale.name)
    kept = read_rows(path) if path.exists() else []

    def with_overrides(overrides: Sequence[str]) -> Config:
        return compose([*overrides, *given.overrides])

    made = list(cells(slug, scale, scale.seeds[:1]))
    left_out = [row.row for row in paper.rows if row.row not in {cell.row for cell in made}]
    gathered = Gathered()
    try:
        gathered = gather(paper, slug, scale, with_overrides, given.runs_dir, kept)
    except ConfigError:  # data that are not here and whose folder was not told: what is kept is all there is
        gathered.rows = kept
    lines = _differences(gathered, made, slug, compose) if gathered.rows else []
    content = compare(paper, slug, scale.name, gathered.rows, len(scale.seeds), lines, left_out)
    return Finding(Section(content, f"python src/train.py -m experiment={slug} scale={scale.name}"), gathered.rows)


def _differences(gathered: Gathered, made: list[Cell], slug: str, compose: Compose) -> list[str]:
    papers = {cell.row: cell for cell in cells(slug, read_scale(PAPER), [0])}
    pairs = {}
    for cell in made:
        config = gathered.configs.get(cell.row)
        if config is not None and cell.row in papers:
            pairs[cell.row] = (config, compose([*papers[cell.row].overrides, ELSEWHERE]))
    return differences(pairs, gathered.listed)
