"""The experiments that repeat the paper's tables and figures: rows, scales and cells.

conf/experiment/<slug>.yaml holds the overrides of each row at the paper's values,
conf/scale/<name>.yaml a size at which it is run, with other values where the paper's
do not fit. A folder of --config-dir may hold more of both: its experiments are the
user's own questions, with their claims in the same file.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from pydantic import ValidationError

from unmask.config.checks import ConfigError, describe_errors
from unmask.config.keys import did_you_mean
from unmask.config.own_files import own_files, own_folders
from unmask.config.own_table import OwnTable
from unmask.config.paper_facts import Paper
from unmask.config.recipes import STAGES
from unmask.config.schema import Scale
from unmask.config.section import NUMBERS_AS_NAMES, Section

# without it Hydra puts the keys of a file into the section of its folder
GLOBAL = "# @package _global_"
ROOT = Path(__file__).parents[3]
EXPERIMENTS = ROOT / "experiments"
# beside src/ in a checkout, in the package where a wheel is installed
CONF = ROOT / "conf"
if not CONF.is_dir():
    CONF = Path(__file__).parents[1] / "conf"
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
    cells: dict[str, list[str]]


class Cell(NamedTuple):
    """One run of an experiment: a row of its table with one seed, at one scale."""

    slug: str
    row: str
    seed: int
    overrides: tuple[str, ...]


def config_names(group: str) -> list[str]:
    """List the files of a group: of conf/ and of --config-dir."""
    names = {path.stem for path in (CONF / group).glob("*.yaml")}
    return sorted(names | own_files(group).keys())


def is_builtin(group: str, name: str) -> bool:
    """Tell whether conf/ has this file."""
    return (CONF / group / f"{name}.yaml").exists()


def find_config(group: str, name: str) -> Path | None:
    """Return the file of an experiment or a scale; None where there is none.

    Raises ConfigError for one of the user's that Hydra would not take: where conf/ has
    that name, too, or it does not say that its keys are those of the whole config.
    """
    path = CONF / group / f"{name}.yaml"
    own = own_files(group).get(name)
    if own is None:
        return path if path.exists() else None
    if is_builtin(group, name):
        raise ConfigError(same_name_message(own))
    if GLOBAL not in own.read_text():
        raise ConfigError(
            f"{own}: its keys are those of the whole config; write {GLOBAL} as its"
            " first line"
        )
    return own


def same_name_message(own: Path) -> str:
    """Say that Hydra would take the file of conf/ in place of the user's."""
    return (
        f"{own}: conf/{own.parent.name}/ has a file of that name, which counts; give"
        " yours another name"
    )


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
        table: OwnTable = _read_section(path, OwnTable, "table")
        with _errors_name(path):
            return table.as_paper(slug, list(sweep.cells))
    folder = slug if isinstance(slug, Path) else EXPERIMENTS / slug
    return _read_section(folder / "paper.yaml", Paper)


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
    sweep: Sweep = _read_section(path, Sweep, "sweep")
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
        if path and "\nsweep:" in path.read_text():
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
    content = _read_yaml(path)
    values = content.get("scale")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: there is no `scale:` in it; see the other files in that folder"
        )
    for base in content.get("defaults", []):
        # the others choose files of other groups
        if isinstance(base, str):
            values = merge(read_scale(base).model_dump(), values)
    return _as_section(path, Scale, values)


# a sweep of all tables reads the same files for each of its cells
@cache
def _read_section(path: Path, section: Any, key: str | None = None) -> Any:
    """Read a YAML file as a section; `key`: where in the file it stands."""
    content = _read_yaml(path)
    if key and (not isinstance(content, dict) or key not in content):
        raise ConfigError(
            f"{path}: there is no `{key}:` in it; see the other files in that folder"
        )
    return _as_section(path, section, content[key] if key else content)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {reason}") from None


def _as_section(path: Path, section: Any, values: Any) -> Any:
    with _errors_name(path):
        return section.model_validate(values)


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Raise ConfigError with the file's path for what does not fit the schema."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_errors(error)}") from None


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
        for seed in seeds or scale.seeds:
            all_overrides = (f"scale={scale.name}", *overrides, f"seed={seed}")
            yield Cell(slug, row, seed, all_overrides)


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
