"""Overrides whose key, group, experiment or scale does not exist."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from unmask.config.checks import ConfigError, raise_errors
from unmask.config.conf_files import (
    CONF,
    find_config,
    is_builtin,
    own_files,
    same_name_message,
    use_folders,
)
from unmask.config.experiments import (
    expand_experiments,
    is_sweep,
    read_scale,
    unknown_name_message,
)
from unmask.config.keys import did_you_mean, is_part_key

# of Hydra: they train all cells of a sweep in its own process, or in a pool of workers
IN_PROCESS_LAUNCHERS = ("basic", "joblib")
OTHER_CONF_FLAGS = ("--config-path", "--config-name", "-cp", "-cn")
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
# what Hydra makes of that flag: folders beside conf/ that hold files of groups
SEARCH_PATH = "hydra.searchpath"
# what is typed behind them is their value, which is no override
VALUE_FLAGS = (*CONFIG_DIR_FLAGS, *OTHER_CONF_FLAGS, "--cfg", "-c", "--package", "-p")


def check_overrides(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError with a line for each key or choice that does not exist.

    known: every key that may be typed. Experiments and scales are from then on those of
    --config-dir, too.
    """
    use_folders(config_folders(arguments))
    raise_errors(
        [
            *unknown_keys(arguments, known),
            *missing_folders(arguments),
            *unknown_experiments(arguments),
            *unknown_choices(arguments),
            *refused_launchers(arguments),
        ]
    )


def override_key(override: str) -> str:
    """Return the key that an override sets: `image_size` for `+image_size=32`."""
    return override.partition("=")[0].lstrip("+~")


def is_number(value: str) -> bool:
    """Tell whether a typed value is a number; 7e5 and 0123 are."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def config_groups() -> list[str]:
    """List the folders of conf/: model=mae_vit_b chooses a file of one."""
    return [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]


def add_part_keys(arguments: Iterable[str], known: Sequence[str]) -> list[str]:
    """Let keys of the user's classes be typed as all others, without Hydra's plus.

    known: the keys of the project. The others are added to the config, or replace what
    a file of --config-dir says of them.
    """
    added = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        is_new = bool(equals) and not argument.startswith(("-", "~", "++"))
        key = key.removeprefix("+")
        # files of conf/ leave out augment._target_, which is rarely set
        is_listed = key in known and not key.endswith("._target_")
        if is_new and not is_listed and is_part_key(key):
            argument = f"++{argument.removeprefix('+')}"
        added.append(argument)
    return added


def join_flags(arguments: Sequence[str]) -> list[str]:
    """Write a flag and its value as one word, as --cfg=job."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in VALUE_FLAGS:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def without_plus(overrides: Iterable[str]) -> list[str]:
    """Return overrides as people type them: undo `add_part_keys`."""
    return [
        each.lstrip("+") if is_part_key(override_key(each)) else each
        for each in overrides
    ]


def folder_flags(arguments: Sequence[str]) -> list[str]:
    """Return what is typed of --config-dir; flags and values are one word each."""
    return [each for each in arguments if each.partition("=")[0] in CONFIG_DIR_FLAGS]


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders of --config-dir, which add files to those of conf/.

    Those of Hydra's key for them, too; packages (pkg://) are no folders.
    """
    folders = []
    for key, value in _key_value_pairs(arguments):
        if key in CONFIG_DIR_FLAGS:
            folders.append(Path(value))
        elif key == SEARCH_PATH:
            paths = [place.removeprefix("file://") for place in _listed(value)]
            folders += [Path(path) for path in paths if "://" not in path]
    return folders


def search_path(folders: Sequence[Path]) -> list[str]:
    """Return the override that lets Hydra look into these folders, too."""
    paths = [f"file://{folder.resolve()}" for folder in folders]
    return [f"{SEARCH_PATH}={json.dumps(paths)}"] if paths else []


def _listed(value: str) -> list[str]:
    """Return the items of a typed list; none of anything else, which Hydra refuses."""
    try:
        items = yaml.safe_load(value)
    except yaml.YAMLError:
        return []
    return [*map(str, items)] if isinstance(items, list) else []


def missing_folders(arguments: Sequence[str]) -> list[str]:
    """Return an error message for each folder of --config-dir that is not there."""
    nameless = [each for each in arguments if each in CONFIG_DIR_FLAGS]
    if len(several := folder_flags(arguments)) > 1:
        # Hydra takes one of them in silence
        return [f"{' '.join(several)}: give one folder, which may hold all files"]
    return [f"{flag}: give its folder, as {flag}=lab" for flag in nameless] + [
        f"--config-dir={folder}: there is no such folder; it holds files such as"
        f" {folder}/masking/mine.yaml, which masking=mine then names"
        for folder in config_folders(arguments)
        if not folder.is_dir()
    ]


def unknown_keys(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return an error message for each key=value argument whose key does not exist.

    What only Hydra understands (flags, `hydra.`, `group@package`) is left to Hydra.
    """
    errors = []
    for argument in arguments:
        key = override_key(argument)
        is_flag = argument.startswith("-") or "=" not in argument
        if is_flag or key.startswith("hydra") or "@" in key:
            continue
        # of a class of the user's; the schema refuses it for the project's own
        if key not in known and not is_part_key(key):
            errors.append(f"{key}: there is no such key{did_you_mean(key, known)}")
    return errors


def unknown_experiments(arguments: Sequence[str]) -> list[str]:
    """Return an error message for each experiment=... or scale=... that does not exist.

    Files that exist and are wrong are errors, too. Hydra does not notice: both groups
    are optional, and it would run the default config. Nor may a value of a scale be
    typed: tables are read from the scale's file, so that it would change nothing.
    """
    errors = []
    for key, value in _key_value_pairs(arguments):
        if key.lstrip("+~").startswith("scale."):
            errors.append(
                f"{key}: a scale's values are those of its file,"
                " conf/scale/<name>.yaml; other seeds: seed=0,1,2"
            )
        if key in ("experiment", "scale"):
            for name in dict.fromkeys(value.strip("'\"").split(",")):
                errors += _check_name(key, name)
    return errors


def _key_value_pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        key, _, value = argument.partition("=")
        yield key, value


def _check_name(key: str, name: str) -> list[str]:
    """Return the error of one experiment or scale, if there is one."""
    # scale=null and experiment=null are the default
    if name == "null":
        return []
    try:
        if key == "scale":
            read_scale(name)
        # the config of one run is checked when Hydra has composed it
        elif is_sweep(name) or find_config("experiment", name) is None:
            expand_experiments(name)
    except ConfigError as error:
        return [str(error)]
    return []


def unknown_choices(arguments: Sequence[str]) -> list[str]:
    """Return an error message for each group=choice that conf/ lacks.

    Also for each value of a logger that is not chosen. Hydra's own message has many
    lines. With another conf/ in its place only Hydra knows which choices exist.
    """
    has_other_conf = any(each.startswith(OTHER_CONF_FLAGS) for each in arguments)
    if has_other_conf or missing_folders(arguments):
        return []
    folders = [CONF, *config_folders(arguments)]
    pairs = [(key.lstrip("+"), value) for key, value in _key_value_pairs(arguments)]
    loggers = " ".join(value for key, value in pairs if key == "logger")
    errors = []
    for key, value in pairs:
        errors += _check_choices(key, value, folders)
        section, _, rest = key.partition(".")
        logger = rest.partition(".")[0]
        if section == "logger" and logger and logger not in loggers:
            errors.append(
                f"{key}: the logger {logger} is not chosen; add logger={logger}"
            )
    return errors


def refused_launchers(arguments: Sequence[str]) -> list[str]:
    """Return an error message for each launcher that would mix cells in a process."""
    return [
        f"{key}={value}: each cell of a sweep is a process of its own; leave this out,"
        " and type hydra.launcher.n_jobs=2 to run two cells at once"
        for key, value in _key_value_pairs(arguments)
        if key.lstrip("+") == "hydra/launcher" and value in IN_PROCESS_LAUNCHERS
    ]


def _check_choices(group: str, value: str, folders: Sequence[Path]) -> list[str]:
    """Return an error message for each choice of a group that no folder has."""
    if not group.isidentifier():
        return []
    known = sorted(
        {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    )
    # experiments and scales are checked above; choice(...) and glob(...) are Hydra's
    if not known or group in ("experiment", "scale") or "(" in value:
        return []
    names = [name.strip(" '\"") for name in value.strip("'\"[]").split(",")]
    own = own_files(group)
    hidden = [own[name] for name in names if name in own and is_builtin(group, name)]
    return [same_name_message(path) for path in hidden] + [
        unknown_name_message(group, name, known)
        for name in names
        if name not in (*known, "null", "")
    ]
