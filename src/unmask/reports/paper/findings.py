"""Everything that is finished of the paper's experiments, at every scale, set beside the paper."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from unmask.config.arguments import Report
from unmask.config.checks import ConfigError
from unmask.config.experiments import (
    CONF,
    EXPERIMENTS,
    Cell,
    Paper,
    cells,
    read_paper,
    read_scale,
    tables_of,
)
from unmask.config.schema import Config, Scale
from unmask.reports.paper.collect import Compose, Gathered, gather
from unmask.reports.paper.comparison import Section, compare
from unmask.reports.paper.protocol_differences import differences
from unmask.reports.paper.result_rows import Kept, ResultRow, all_kept, read_rows
from unmask.stages.fingerprint import kind_title
from unmask.training.flops import count
from unmask.training.outline import pretraining


class Finding(NamedTuple):
    """A table of the paper beside ours, and the rows it was made of."""

    section: Section
    rows: list[ResultRow]
    notes: list[str]


PAPER = "paper"
# in a stage's config.yaml
SCALE = re.compile(r"^ +scale:\n +name: (\S+)$", re.MULTILINE)


def kept_results(slug: str, scale: str) -> Path:
    return EXPERIMENTS / slug / "results" / f"{scale}.csv"


def findings(given: Report, compose: Compose) -> list[Finding]:
    """The asked experiments in the paper's order, each at its scales; without a scale, those that have results.

    Raises ConfigError for an experiment or scale that there is not, and where other cells than a table's would be kept.
    """
    if strange := [
        override
        for override in given.overrides
        if given.keep and not override.startswith("data.root=")
    ]:
        raise ConfigError(
            f"keep=true with overrides={strange}: kept is the table as conf/ has it;"
            " leave them out (data.root= may stay), or report without keep"
        )
    scales = given.scale.split(",") if given.scale else _with_results(given.runs_dir)
    found, kept = [], all_kept()
    for slug in tables_of(given.experiment):
        paper = read_paper(slug)
        for scale in map(read_scale, scales):
            finding = _finding(paper, slug, scale, given, compose, kept)
            content = finding.section.content
            if content.done or (given.scale and content.expected):
                found.append(finding)
    return found


def _with_results(runs_dir: str) -> list[str]:
    """The scales of which the ledger has a stage, or experiments/ kept results: others need not be composed."""
    kept = {path.stem for path in EXPERIMENTS.glob("*/results/*.csv")}
    texts = (path.read_text() for path in Path(runs_dir).glob("*/*/config.yaml"))
    made = {match.group(1) for match in map(SCALE.search, texts) if match}
    return [
        path.stem
        for path in sorted((CONF / "scale").glob("*.yaml"), reverse=True)
        if path.stem in kept | made
    ]


def _finding(
    paper: Paper, slug: str, scale: Scale, given: Report, compose: Compose, kept: Kept
) -> Finding:
    own = read_rows(kept_results(slug, scale.name))
    more = sorted({*(given.seeds or []), *(row.seed for row in own)})
    asked = [] if given.keep else given.seeds or []  # what is kept is all that there is
    seeded = scale.model_copy(
        update={"seeds": asked or list(dict.fromkeys([*scale.seeds, *more]))}
    )

    def with_overrides(overrides: Sequence[str]) -> Config:
        return compose([*overrides, *given.overrides])

    made = list(cells(slug, scale, scale.seeds[:1]))
    left_out = [
        row.row for row in paper.rows if row.row not in {cell.row for cell in made}
    ]
    gathered = gather(
        paper,
        slug,
        seeded,
        with_overrides,
        given.runs_dir,
        kept,
        [] if given.overrides else own,
    )
    lines = (
        [*_differences(gathered, made, slug, compose), *paper.unlike]
        if gathered.rows
        else []
    )
    counted = {
        name: relative_flops(paper, gathered.configs)
        for name, column in paper.columns.items()
        if column.counted
    }
    content = compare(
        paper,
        slug,
        scale.name,
        gathered.rows,
        len(asked or scale.seeds),
        lines,
        left_out,
        counted,
    )
    typed = [f"experiment={slug}", f"scale={scale.name}", *given.overrides]
    typed += [f"seed={','.join(map(str, given.seeds))}"] if given.seeds else []
    notes = [*gathered.notes]
    if gathered.from_kept:
        notes.append(
            f"{slug}: {gathered.from_kept} of {len(gathered.rows)} results are those"
            " kept in experiments/"
        )
    cost = (
        f"{_stages(gathered)}python src/plan.py experiment={slug} scale={scale.name}"
        " prices it"
    )
    return Finding(
        Section(content, f"python src/train.py -m {shlex.join(typed)}", cost),
        gathered.rows,
        notes,
    )


def _stages(gathered: Gathered) -> str:
    """How many of each kind the table takes, shared ones once; nothing where the images, so the stages, are unknown."""
    counts = Counter(map(kind_title, gathered.stages.values()))
    named = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return f"{named}; " if named else ""


def relative_flops(paper: Paper, configs: dict[str, Config]) -> dict[str, float]:
    """Of an image's pretraining step, in times the default row's; torch counts them on the very modules that train."""
    if paper.default not in configs:
        return {}
    found = {
        row: count(partial(pretraining, config)).training
        for row, config in configs.items()
    }
    return {row: flops / found[paper.default] for row, flops in found.items()}


def _differences(
    gathered: Gathered, made: list[Cell], slug: str, compose: Compose
) -> list[str]:
    papers = {cell.row: cell for cell in cells(slug, read_scale(PAPER), [0])}
    pairs = {}
    for cell in made:
        config = gathered.configs.get(cell.row)
        if config is not None and cell.row in papers:
            pairs[cell.row] = (config, compose(papers[cell.row].overrides))
    return differences(pairs, gathered.listed)
