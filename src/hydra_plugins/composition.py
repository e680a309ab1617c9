"""Composing many configs that differ in a few values, as sweeps and prices need them.

Hydra composes each choice of groups once, which takes most of the time; values are set
in a copy afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unmask.config.checks import ConfigError
from unmask.config.experiments import CONF
from unmask.config.keys import override_key


@contextmanager
def hydra_errors_as_config_errors() -> Iterator[None]:
    """Raise ConfigError for errors of Hydra and OmegaConf within."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        # the lines after the first one repeat the key and the type of the object
        raise ConfigError(f"{error}".splitlines()[0]) from None


class Composer:
    """Compose overrides into plain containers, as hydra.compose and resolving do.

    To be called within hydra.initialize_config_dir.
    """

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the resolved config.

        Raises ConfigError for what cannot be composed or resolved.
        """
        with hydra_errors_as_config_errors():
            return self._resolve(overrides)

    def choices(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return the chosen file of every group."""
        groups = tuple(filter(_chooses_group, overrides))
        chosen = self._compose_groups(groups).hydra.runtime.choices
        return dict(OmegaConf.to_container(chosen))  # type: ignore[arg-type]

    def _resolve(self, overrides: Sequence[str]) -> dict[str, Any]:
        groups = tuple(filter(_chooses_group, overrides))
        values = [override for override in overrides if override not in groups]
        config = deepcopy(self._compose_groups(groups))
        for override in OverridesParser.create().parse_overrides(values):
            key = override.key_or_group
            if override.is_add() and OmegaConf.select(config, key) is not None:
                raise ConfigError(
                    f"+{key}: there is such a key already; leave out the +"
                )
            may_add = override.is_add() or override.is_force_add()
            OmegaConf.update(config, key, override.value(), force_add=may_add)
        OmegaConf.set_struct(config, False)
        # Hydra's own part holds values that only Hydra's main function fills in
        config.pop("hydra")
        raw = OmegaConf.to_container(config, resolve=True)
        assert isinstance(raw, dict)
        return {str(key): value for key, value in raw.items()}

    def _compose_groups(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._composed:
            self._composed[groups] = compose(
                "config", overrides=list(groups), return_hydra_config=True
            )
        return self._composed[groups]


def _chooses_group(override: str) -> bool:
    """Whether an override chooses or removes a group's file, as data=imagenet does."""
    key = override_key(override)
    return "@" in key or override.startswith("~") or (CONF / key).is_dir()
