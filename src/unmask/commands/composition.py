"""Composing configs from conf/: of many runs that differ in a few values, of a command.

Hydra composes each choice of groups once, which takes most of the time; values are set
in a copy afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from string import Template
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from unmask.config.checks import ConfigError
from unmask.config.conf_files import CONF, own_folders
from unmask.config.keys import is_part_key
from unmask.config.overrides import SEARCH_PATH, override_key, search_path


@contextmanager
def hydra_errors_as_config_errors() -> Iterator[None]:
    """Raise ConfigError for errors of Hydra and OmegaConf within."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        # the lines after the first one repeat the key and the type of the object
        raise ConfigError(f"{error}".splitlines()[0]) from None


def check_syntax(arguments: Sequence[str]) -> None:
    """Raise ConfigError for the first key=value that Hydra cannot read."""
    parser = OverridesParser.create()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-") or not equals:
            continue
        try:
            parser.parse_override(argument)
        except HydraException:
            raise ConfigError(
                f"{argument}: blanks, brackets, quotes and ~ need quotes of their own;"
                f" type '{key}=\"{value}\"'"
            ) from None


def compose_arguments(name: str, typed: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of conf/<name>.yaml with the typed key=value set in them.

    A value is YAML; a key of the file's defaults list chooses a file of that group.
    Raises ConfigError.
    """
    defaults = yaml.safe_load((CONF / f"{name}.yaml").read_text()).get("defaults", [])
    groups = [key for entry in defaults if entry != "_self_" for key in entry]
    choices = [argument for argument in typed if override_key(argument) in groups]
    values = [argument for argument in typed if argument not in choices]
    for argument in values:
        _check_yaml(argument)
    with hydra_errors_as_config_errors():
        config = _compose(name, choices)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        return resolve(OmegaConf.merge(config, OmegaConf.from_dotlist(values)))


def _check_yaml(argument: str) -> None:
    """Raise ConfigError where the value is no YAML, as an open bracket."""
    try:
        OmegaConf.from_dotlist([argument])
    except yaml.YAMLError:
        key, _, value = argument.partition("=")
        raise ConfigError(
            f"{argument}: the value is no YAML; close brackets and quotes, or quote all"
            f" of it: '{key}=\"{value}\"'"
        ) from None


def compose_run(overrides: Sequence[str]) -> DictConfig | None:
    """Return the config of one run, as Hydra's main function hands it on.

    That composes each config twice, first to find out whether it is a sweep. None where
    the config itself asks for what only Hydra's main function does. Raises ConfigError.
    """
    with hydra_errors_as_config_errors():
        config = _compose("config", overrides)
        hydra = config.hydra
        asks_hydra = hydra.mode or hydra.callbacks or hydra.job.env_set or hydra.verbose
        if asks_hydra or hydra.job.chdir or hydra.output_subdir or hydra.run.dir != ".":
            return None
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        config.pop("hydra")
    return config


def compose_help(overrides: Sequence[str]) -> str:
    """Return what Hydra prints for --help: the groups, and the config as it would be.

    Hydra takes a second to look for groups in each of its packages. Raises ConfigError.
    """
    with hydra_errors_as_config_errors():
        config = _compose("config", overrides)
        template = Template(config.hydra.help.template)
        with open_dict(config):
            config.pop("hydra")
        return template.safe_substitute(
            APP_CONFIG_GROUPS="".join(f"{line}\n" for line in _group_lines()),
            CONFIG=OmegaConf.to_yaml(config),
        )


def _group_lines() -> Iterator[str]:
    """Yield each group of conf/ with its choices."""
    for group in sorted(path for path in CONF.rglob("*") if path.is_dir()):
        choices = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        if choices:
            yield f"{group.relative_to(CONF)}: {choices}"


class Composer:
    """Compose a run's overrides into plain containers, as src/train.py does."""

    def __init__(self) -> None:
        # by the chosen groups: the config, and Hydra's own part
        self._composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the resolved config.

        Raises ConfigError for what cannot be composed or resolved.
        """
        with hydra_errors_as_config_errors():
            return self._resolve(overrides)

    def choices(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return the chosen file of every group."""
        groups = tuple(filter(_chooses_group, overrides))
        _, hydra = self._compose_groups(groups)
        return resolve(hydra.runtime.choices)

    def _resolve(self, overrides: Sequence[str]) -> dict[str, Any]:
        groups = tuple(filter(_chooses_group, overrides))
        values = [override for override in overrides if override not in groups]
        composed, _ = self._compose_groups(groups)
        config = deepcopy(composed)
        for override in OverridesParser.create().parse_overrides(values):
            key = override.key_or_group
            is_known = OmegaConf.select(config, key) is not None
            if override.is_add() and is_known and not is_part_key(key):
                raise ConfigError(
                    f"+{key}: there is such a key already; leave out the +"
                )
            may_add = override.is_add() or override.is_force_add() or is_part_key(key)
            OmegaConf.update(config, key, override.value(), force_add=may_add)
        return resolve(config)

    def _compose_groups(self, groups: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        if groups not in self._composed:
            config = _compose("config", groups)
            # it holds values that only Hydra's main function fills in
            OmegaConf.set_struct(config, False)
            hydra = config.pop("hydra")
            OmegaConf.set_struct(config, True)
            self._composed[groups] = config, hydra
        return self._composed[groups]


def _chooses_group(override: str) -> bool:
    """Tell whether an override chooses or removes a group, or says where groups lie."""
    key = override_key(override)
    is_group = "@" in key or override.startswith("~") or (CONF / key).is_dir()
    return is_group or key == SEARCH_PATH


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose within Hydra's main function, or on our own where none runs."""
    if GlobalHydra.instance().is_initialized():
        return compose(name, list(overrides), return_hydra_config=True)
    if not any(override_key(each) == SEARCH_PATH for each in overrides):
        overrides = [*search_path(own_folders()), *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=True)


def resolve(config: Any) -> dict[str, Any]:
    """Return plain containers; ConfigError for an interpolation that leads nowhere."""
    try:
        raw = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        first_line, *_ = str(error).splitlines()
        raise ConfigError(f"the config does not resolve: {first_line}") from None
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}
