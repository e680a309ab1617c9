"""Files of conf/, and of folders of --config-dir: where they lie, and what they hold.

Hydra finds the files of groups in such a folder by itself. Experiments and scales are
read without Hydra, also where none of it is imported.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unmask.config.checks import ConfigError, describe_errors

# without it Hydra puts the keys of a file into the section of its folder
GLOBAL = "# @package _global_"
ROOT = Path(__file__).parents[3]
# beside src/ in a checkout, in the package where a wheel is installed
CONF = ROOT / "conf"
if not CONF.is_dir():
    CONF = Path(__file__).parents[1] / "conf"
# of --config-dir, as typed
_folders: list[Path] = []


def use_folders(folders: Sequence[Path]) -> None:
    """Look up files in these folders from now on, in place of those before."""
    _folders[:] = folders


def own_folders() -> list[Path]:
    """Return the folders of --config-dir of this command, as typed."""
    return list(_folders)


def own_files(group: str) -> dict[str, Path]:
    """Return the user's files of a group by name; of two, that of the first folder.

    Hydra takes that one, too.
    """
    # a later entry replaces an earlier one
    paths = [
        path for folder in reversed(_folders) for path in folder.glob(f"{group}/*.yaml")
    ]
    return {path.stem: path for path in paths}


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
    own = own_files(group).get(name)
    if own is None:
        return CONF / group / f"{name}.yaml" if is_builtin(group, name) else None
    if is_builtin(group, name):
        raise ConfigError(same_name_message(own))
    if GLOBAL not in read_text(own):
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


# a sweep of all tables reads the same files for each of its cells
@cache
def read_section(path: Path, section: Any, key: str | None = None) -> Any:
    """Read a YAML file as a section; `key`: where in the file it stands."""
    content = read_part(path, key) if key else read_yaml(path)
    return as_section(path, section, content)


def read_part(path: Path, key: str) -> Any:
    content = read_yaml(path)
    if not isinstance(content, dict) or key not in content:
        raise ConfigError(
            f"{path}: there is no `{key}:` in it; see the other files in that folder"
        )
    return content[key]


def read_yaml(path: Path) -> Any:
    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {reason}") from None


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def as_section(path: Path, section: Any, values: Any) -> Any:
    with errors_name(path):
        return section.model_validate(values)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Raise ConfigError with the file's path for what does not fit the schema."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_errors(error)}") from None
