"""The experiments that repeat the paper's tables and figures: rows, scales and cells.

conf/experiment/<slug>.yaml holds the overrides of each row at the paper's values,
conf/scale/<name>.yaml a size at which it is run, with other values where the paper's
do not fit. A folder of --config-dir may hold more of both: its experiments are the
user's own questions, with their claims in the same file.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import Field, field_validator

from unmask.config.checks import ConfigError
from unmask.config.conf_files import (
    ROOT,
    as_section,
    config_names,
    errors_name,
    find_config,
    own_files,
    own_folders,
    read_part,
    read_section,
    read_text,
    read_yaml,
)
from unmask.config.keys import did_you_mean
from unmask.config.own_table import OwnTable
from unmask.config.paper_facts import Paper
from unmask.config.recipes import STAGES
from unmask.config.schema import Scale
from unmask.config.section import NUMBERS_AS_NAMES, Section

# what a sweep sets in all of its cells
FIXED_KEYS = ("experiment", "scale", "seed")
EXPERIMENTS = ROOT / "experiments"
SMALLEST_SCALE = "embedded"
# what a user types after experiment= for several tables at once
ALL = "all"
ABLATIONS = "ablations"
# where the ablations stand in the paper: one ViT-L, one thing varied at a time
ABLATION_PATTERN = r"Table 1[a-z]|Footnote|Figure [579]"
# the order of experiments in lists
PAPER_ORDER = (r"Table 1[a-z]", "Footnote", "Figure", "Table", "Section")


class Sweep(Section):
    """The overrides of each row of a table, at the paper's values.

    A row without overrides is the default config, which several tables share.
    """

    model_config = NUMBERS_AS_NAMES

    slug: str
    cells: dict[str, list[str]] = Field(min_length=1)

    @field_validator("cells", mode="before")
    @classmethod
    def check_names(cls, cells: Any) -> Any:
        names = cells if isinstance(cells, dict) else {}
        if truths := [name for name in names if isinstance(name, bool)]:
            raise ValueError(
                f"cells has row {truths[0]}: YAML reads on, off, yes and no as true and"
                " false; put the row's name in quotes"
            )
        return cells


class Cell(NamedTuple):
    """One run of an experiment: a row of its table with one seed, at one scale."""

    slug: str
    row: str
    seed: int
    overrides: tuple[str, ...]


def experiment_folder(slug: str) -> Path:
    """Return the folder that keeps an experiment's results.

    It is experiments/<slug>; of a question of the user's that of the same name beside
    the folder of its file.
    """
    own = own_files("experiment").get(slug)
    return own.parents[1] / "experiments" / slug if own else EXPERIMENTS / slug


def kept_files() -> list[Path]:
    """List the files of kept results: experiments/<slug>/results/<scale>.csv."""
    roots = [EXPERIMENTS, *(folder / "experiments" for folder in own_folders())]
    return sorted(path for root in roots for path in root.glob("*/results/*.csv"))


def experiment_slugs() -> list[str]:
    """List the experiments that have a sweep, in the paper's order, then the user's."""
    # the others are configs of one run, such as demo
    slugs = [name for name in config_names("experiment") if is_sweep(name)]
    return sorted(slugs, key=lambda slug: (_paper_position(read_paper(slug)), slug))


def _paper_position(paper: Paper) -> tuple[int, str]:
    """Return a sort key: the kind of table or figure, then its number."""
    kind = next(
        (i for i, kind in enumerate(PAPER_ORDER) if re.match(kind, paper.paper)),
        len(PAPER_ORDER),
    )
    number = re.search(r"\d+[a-z]?", paper.paper)
    # padded, so that 2 comes before 13
    return kind, number.group().rjust(4) if number else paper.paper


def read_paper(slug: str | Path) -> Paper:
    """Read the paper's facts of an experiment, by its slug or its folder.

    Those of a user's question stand in its own file. Raises ConfigError for a file that
    is missing or does not fit the schema.
    """
    if isinstance(slug, str) and slug in own_files("experiment"):
        sweep = read_sweep(slug)
        path = own_files("experiment")[slug]
        table: OwnTable = read_section(path, OwnTable, "table")
        with errors_name(path):
            return table.as_paper(slug, list(sweep.cells))
    folder = slug if isinstance(slug, Path) else EXPERIMENTS / slug
    return read_section(folder / "paper.yaml", Paper)


def read_sweep(slug: str) -> Sweep:
    """Read the overrides of each row of an experiment.

    Raises ConfigError for an experiment that does not exist or is one run, and for
    files that contradict each other.
    """
    path = find_config("experiment", slug)
    if path is None:
        refuse_unknown("experiment", slug, [ALL, ABLATIONS, *experiment_slugs()])
    if not is_sweep(slug):
        raise ConfigError(
            f"experiment={slug} is one run, not a table of the paper; give it alone"
        )
    sweep: Sweep = read_section(path, Sweep, "sweep")
    # the rows of a user's table are those of its sweep
    is_own = slug in own_files("experiment")
    labels = [] if is_own else [row.row for row in read_paper(slug).rows]
    unknown = [row for row in sweep.cells if row not in labels and not is_own]
    if unknown:
        raise ConfigError(
            f"{path}: row {unknown[0]} is not in experiments/{slug}/paper.yaml, whose"
            f" rows are {labels}"
        )
    if sweep.slug != slug:
        raise ConfigError(
            f"{path}: sweep.slug is {sweep.slug}; it must be the file's name, {slug}"
        )
    return sweep


def merge(base: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both as Hydra merges them: sections key by key, of others the latter."""
    merged = dict(base)
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        merged[key] = merge(inner, value) if both and inner else value
    return merged


def unknown_name_message(key: str, name: str, known: list[str]) -> str:
    """Say that an experiment, scale or choice does not exist, and which do."""
    return (
        f"{key}={name}: there is no such {key}{did_you_mean(name, known)}; one of"
        f" {', '.join(known)}"
    )


def refuse_unknown(key: str, name: str, known: list[str]) -> NoReturn:
    """Raise ConfigError for an experiment or scale that does not exist."""
    raise ConfigError(unknown_name_message(key, name, known))


def is_sweep(names: str) -> bool:
    """Tell whether one of the names, separated by commas, has many cells.

    The others are configs of one run.
    """
    for name in names.split(","):
        if name in (ALL, ABLATIONS):
            return True
        path = find_config("experiment", name)
        # the text is enough: this is asked before the file is checked
        if path and "\nsweep:" in read_text(path):
            return True
    return False


def expand_experiments(names: str) -> list[str]:
    """List the experiments that names, separated by commas, stand for, each once.

    `all` stands for every experiment, `ablations` for Table 1, footnote 1 and Figures
    5, 7 and 9. Raises ConfigError for an experiment that does not exist.
    """
    slugs: list[str] = []
    for name in names.split(","):
        if name == ALL:
            slugs += experiment_slugs()
        elif name == ABLATIONS:
            slugs += [
                slug
                for slug in experiment_slugs()
                if re.match(ABLATION_PATTERN, read_paper(slug).paper)
            ]
        else:
            slugs.append(read_sweep(name).slug)
            # what it claims is checked, too
            read_paper(name)
    return list(dict.fromkeys(slugs))


def same_run_message(slug: str, row: str, other: str) -> str:
    """Say that an override has made two rows of a table the same run."""
    return (
        f"experiment={slug}: rows {row} and {other} are one run; leave out the override"
        " of what this table varies"
    )


def read_scale(name: str) -> Scale:
    """Read a scale; ConfigError where it does not exist or its file is wrong."""
    path = find_config("scale", name)
    if path is None:
        refuse_unknown("scale", name, config_names("scale"))
    scale = _read_scale_file(path)
    if scale.name != name:
        raise ConfigError(
            f"{path}: scale.name is {scale.name}; it must be the file's name, {name}"
        )
    for slug in [*scale.cells, *(scale.caveats.keys() - STAGES.keys())]:
        if find_config("experiment", slug) is None:
            message = unknown_name_message("experiment", slug, experiment_slugs())
            raise ConfigError(f"{path}: {message}")
    return scale


@cache
def _read_scale_file(path: Path) -> Scale:
    """Read a scale, with what it takes over from the scale in its `defaults`."""
    return as_section(path, Scale, _scale_values(path, ()))


def _scale_values(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return a scale's values over those that it builds on.

    above: the scales that build on it.
    """
    if path in above:
        raise ConfigError(f"{path}: its `defaults` lead back to itself; name another")
    values = read_part(path, "scale")
    bases = read_yaml(path).get("defaults", [])
    if not isinstance(values, dict) or not isinstance(bases, list):
        raise ConfigError(f"{path}: `scale` must hold keys, and `defaults` be a list")
    for name in bases:
        # the others choose files of other groups
        if isinstance(name, str) and name != "_self_":
            base = find_config("scale", name)
            if base is None:
                known = config_names("scale")
                raise ConfigError(
                    f"{path}: {unknown_name_message('scale', name, known)}"
                )
            values = merge(_scale_values(base, (*above, path)), values)
    return values


def experiment_cells(
    slug: str, scale: Scale, seeds: list[int] | None = None
) -> Iterator[Cell]:
    """Yield every row of an experiment with every seed, in the paper's order.

    seeds: by default the scale's. The scale's overrides of a row replace the paper's.
    """
    sweep = read_sweep(slug)
    scale_overrides = scale.cells.get(slug, {})
    # in place of rows the scale's file says why the experiment is left out
    if not isinstance(scale_overrides, dict):
        return
    unknown = sorted(scale_overrides.keys() - sweep.cells.keys())
    if unknown:
        raise ConfigError(
            f"scale={scale.name}: {slug} has no row {unknown[0]}; rows are"
            f" {list(sweep.cells)}"
        )
    for row, paper_overrides in sweep.cells.items():
        overrides = scale_overrides.get(row, paper_overrides)
        # in place of overrides it says why the row is left out
        if overrides is None or isinstance(overrides, str):
            continue
        _refuse_fixed(slug, row, overrides)
        for seed in seeds or scale.seeds:
            all_overrides = (f"scale={scale.name}", *overrides, f"seed={seed}")
            yield Cell(slug, row, seed, all_overrides)


def _refuse_fixed(slug: str, row: str, overrides: list[str]) -> None:
    """Raise ConfigError for what is no dial of a row: the sweep sets it."""
    for override in overrides:
        if override.partition("=")[0].lstrip("+") in FIXED_KEYS:
            raise ConfigError(
                f"{slug}, row {row}: {override} cannot differ between rows; leave it"
                " out, and type it for the sweep"
            )


def scale_caveats(paper: Paper, slug: str, scale: Scale) -> list[str]:
    """Return what a reader of a table at this scale must know, a sentence each.

    It is what the scale's file says of the table, of the stages in its columns, and of
    rows that it leaves out.
    """
    kinds = {kind for row in paper.rows for kind in paper.column_stages(row).values()}
    # some tables are called as a stage: of them their own sentence counts
    names = [slug, *sorted(kinds - set(experiment_slugs()) - {slug})]
    sentences = [scale.caveats[name] for name in names if name in scale.caveats]
    cells = scale.cells.get(slug, {})
    if isinstance(cells, str):
        return [*sentences, f"left out: {cells}"]
    rows_of: dict[str, list[str]] = {}
    for row, cell in (cells or {}).items():
        if isinstance(cell, str):
            rows_of.setdefault(cell, []).append(row)
    for reason, rows in rows_of.items():
        noun, verb = ("row", "is") if len(rows) == 1 else ("rows", "are")
        sentences.append(f"{noun} {', '.join(rows)} {verb} left out: {reason}")
    return sentences
