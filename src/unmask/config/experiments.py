"""The paper's tables and figures as data: what it found and claims, and the sweep of ours that asks the same.

experiments/<slug>/paper.yaml holds the paper's numbers, conf/experiment/<slug>.yaml the overrides of each row at the
paper's values, conf/scale/<name>.yaml a size at which it is made, with its own values where the paper's do not fit.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError, model_validator

from unmask.config.checks import ConfigError, described
from unmask.config.keys import suggestion
from unmask.config.recipes import NonNegative, Part, Positive
from unmask.config.schema import Scale, Stage

ROOT = Path(__file__).parents[3]
EXPERIMENTS, CONF = ROOT / "experiments", ROOT / "conf"
SMALLEST_SCALE = "embedded"
CORE = r"Table 1[a-z]|Footnote|Figure [579]"  # one ViT-L, one thing varied at a time
ALL, ABLATIONS = "all", "ablations"
Form = Literal["bars", "curve", "table"]


class Column(Part):
    """A column of the table; one that no stage fills and that is not counted is the paper's alone."""

    title: str
    unit: str
    stage: Stage | None = None
    metric: str = "val/accuracy"  # of result.json's metrics, or "seconds"
    # ours is counted on the module, in times the default row's
    counted: Literal["training_flops"] | None = None


class Claim(Part):
    """What the paper says of one column, as inequalities between rows; in points of the column's unit."""

    says: str
    column: str
    best: str | None = None
    rising: list[str] | None = None
    falling: list[str] | None = None
    higher: list[str] | None = None  # the first above the second, by more than `by`
    by: NonNegative = 0.0
    within: Positive | None = None
    rows: list[str] | None = None

    @model_validator(mode="after")
    def one_form(self) -> "Claim":
        forms = [self.best, self.rising, self.falling, self.higher, self.within]
        if sum(form is not None for form in forms) != 1:
            raise ValueError(
                f"claim {self.says!r}: give one of best, rising, falling, higher,"
                " within"
            )
        if (self.within is None) != (self.rows is None):
            raise ValueError(f"claim {self.says!r}: within and rows belong together")
        if self.by and self.higher is None:
            raise ValueError(
                f"claim {self.says!r}: by = {self.by:g} is a margin of higher alone"
            )
        return self

    @property
    def named(self) -> list[str]:
        """The rows that it names."""
        return [
            *([self.best] if self.best else []),
            *(self.rising or self.falling or self.higher or self.rows or []),
        ]


class PaperRow(Part):
    """A row's label, the paper's value in each column (None: not reported), columns that another stage fills."""

    row: str
    values: dict[str, float | None]
    stages: dict[str, Stage] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def gather(cls, given: Any) -> Any:
        """In the file every other key is a column."""
        if "values" in given:
            return given
        own = {key: given[key] for key in ("row", "stages") if key in given}
        return own | {
            "values": {key: value for key, value in given.items() if key not in own}
        }


class Paper(Part):
    """One table or figure of the paper."""

    title: str
    paper: str  # Table 1a
    question: str
    source: str
    protocol: str
    axis: str
    kind: Literal["number", "case"]
    form: Form
    x_scale: Literal["linear", "log"] = "linear"
    default: str | None
    columns: dict[str, Column]
    rows: list[PaperRow]
    claims: list[Claim]
    note: str | None = None
    # what differs from the paper at every scale of ours
    unlike: list[str] = Field(default_factory=list)

    def row(self, label: str) -> PaperRow:
        """The row of that label; KeyError for one that there is not."""
        return {row.row: row for row in self.rows}[label]

    def stages_of(self, row: PaperRow) -> dict[str, str]:
        """Which stage fills each column of ours in this row; a value of null is the paper's gap, not ours."""
        wanted = {
            name: row.stages.get(name) or column.stage
            for name, column in self.columns.items()
        }
        return {
            name: stage
            for name, stage in wanted.items()
            if stage and (name in row.values or name in row.stages)
        }

    @model_validator(mode="after")
    def named_things_exist(self) -> "Paper":
        labels = [row.row for row in self.rows]
        wrong = [
            f"row {row}"
            for claim in self.claims
            for row in claim.named
            if row not in labels
        ]
        wrong += [
            f"column {claim.column}"
            for claim in self.claims
            if claim.column not in self.columns
        ]
        wrong += [
            f"column {name}"
            for row in self.rows
            for name in row.values
            if name not in self.columns
        ]
        wrong += (
            [f"row {self.default}"]
            if self.default is not None and self.default not in labels
            else []
        )
        if wrong:
            raise ValueError(
                f"{self.paper}: there is no {wrong[0]}; rows are {labels}, columns"
                f" {list(self.columns)}"
            )
        return self


class Sweep(Part):
    """The overrides of each row at the paper's values; an empty list is the default cell, common to the tables."""

    slug: str
    cells: dict[str, list[str]]


class Cell(NamedTuple):
    """One run of an experiment at a scale."""

    slug: str
    row: str
    seed: int
    overrides: tuple[str, ...]


def slugs() -> list[str]:
    """The experiments that have a sweep, in the paper's order."""
    found = [
        path.stem
        for path in (CONF / "experiment").glob("*.yaml")
        if (EXPERIMENTS / path.stem).is_dir()
    ]
    return sorted(found, key=lambda slug: (_place(read_paper(slug).paper), slug))


def _place(paper: str) -> tuple[int, str]:
    """Table 1a to 1f, footnote 1, Figures 5, 7, 8, 9, then the other tables and the rest."""
    kinds = (r"Table 1[a-z]", "Footnote", "Figure", "Table", "Section")
    number = re.search(r"\d+[a-z]?", paper)
    return next(
        (i for i, kind in enumerate(kinds) if re.match(kind, paper)), len(kinds)
    ), (number.group().rjust(4) if number else paper)


def read_paper(slug: str | Path) -> Paper:
    """Raises ConfigError for a file that is missing or says what it may not."""
    folder = slug if isinstance(slug, Path) else EXPERIMENTS / slug
    return _read(folder / "paper.yaml", Paper)


def read_sweep(slug: str) -> Sweep:
    """Raises ConfigError for an experiment that there is not, or one that is no sweep."""
    path = CONF / "experiment" / f"{slug}.yaml"
    if not path.exists():
        raise ConfigError(no_such("experiment", slug, [ALL, ABLATIONS, *slugs()]))
    if not is_sweep(slug):
        raise ConfigError(
            f"experiment={slug} is one run, not a table of the paper; give it alone"
        )
    sweep = _read(path, Sweep, "sweep")
    labels = [row.row for row in read_paper(slug).rows]
    if strange := [row for row in sweep.cells if row not in labels]:
        raise ConfigError(
            f"{path}: row {strange[0]} is not in experiments/{slug}/paper.yaml, whose"
            f" rows are {labels}"
        )
    if sweep.slug != slug:
        raise ConfigError(
            f"{path}: sweep.slug is {sweep.slug}; it must be the file's name, {slug}"
        )
    return sweep


def no_such(key: str, name: str, known: list[str]) -> str:
    return (
        f"{key}={name}: there is no such {key}{suggestion(name, known)}; one of"
        f" {', '.join(known)}"
    )


def is_sweep(names: str) -> bool:
    """Whether one of the names, with commas between, is a table or figure of many cells, not the config of one run."""
    for name in names.split(","):
        path = CONF / "experiment" / f"{name}.yaml"
        if name in (ALL, ABLATIONS) or (
            name and path.exists() and "\nsweep:" in path.read_text()
        ):
            return True
    return False


def tables_of(names: str) -> list[str]:
    """Names with commas between; all, or ablations: Table 1, footnote 1 and Figures 5, 7 and 9, once each.

    Raises ConfigError for an experiment that there is not.
    """
    found: dict[str, None] = {}
    for name in names.split(","):
        if name == ALL:
            found |= dict.fromkeys(slugs())
        elif name == ABLATIONS:
            found |= {
                slug: None for slug in slugs() if re.match(CORE, read_paper(slug).paper)
            }
        else:
            found[read_sweep(name).slug] = None
    return list(found)


def one_run(slug: str, row: str, other: str) -> str:
    """What to say of two rows of a table that an override has made the same."""
    return (
        f"experiment={slug}: rows {row} and {other} are one run; leave out the override"
        " of what this table varies"
    )


def read_scale(name: str) -> Scale:
    """Raises ConfigError for a scale that there is not."""
    path = CONF / "scale" / f"{name}.yaml"
    known = sorted(p.stem for p in path.parent.glob("*.yaml"))
    if not path.exists():
        raise ConfigError(no_such("scale", name, known))
    scale = _read(path, Scale, "scale")
    if scale.name != name:
        raise ConfigError(
            f"{path}: scale.name is {scale.name}; it must be the file's name, {name}"
        )
    if strange := [
        slug
        for slug in scale.cells
        if not (CONF / "experiment" / f"{slug}.yaml").exists()
    ]:
        raise ConfigError(f"{path}: {no_such('experiment', strange[0], slugs())}")
    return scale


@cache
def _read(path: Path, kind: Any, key: str | None = None) -> Any:
    try:
        content = yaml.safe_load(path.read_text())
        if key and (not isinstance(content, dict) or key not in content):
            raise ConfigError(
                f"{path}: there is no `{key}:` in it; see the files beside it"
            )
        return kind.model_validate(content[key] if key else content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {described(error)}") from None
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read: {' '.join(str(error).split())}"
        ) from None


def cells(slug: str, scale: Scale, seeds: list[int] | None = None) -> Iterator[Cell]:
    """Every row with every seed, in the paper's order; the scale's own values where it has some."""
    sweep, own = read_sweep(slug), scale.cells.get(slug, {})
    if own is None:
        return
    if unknown := own.keys() - sweep.cells.keys():
        raise ConfigError(
            f"scale={scale.name}: {slug} has no row {sorted(unknown)[0]}; rows are"
            f" {list(sweep.cells)}"
        )
    for row, overrides in sweep.cells.items():
        chosen = own.get(row, overrides)
        if chosen is None:
            continue
        for seed in seeds or scale.seeds:
            yield Cell(
                slug, row, seed, (f"scale={scale.name}", *chosen, f"seed={seed}")
            )
