"""Many configs that differ in a few values: Hydra composes each choice of groups once, the values are set after."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unmask.config.checks import ConfigError
from unmask.config.experiments import CONF
from unmask.config.keys import key_of


class Composer:
    """Within hydra.initialize_config_dir: overrides to plain containers, as hydra.compose and resolving them gives."""

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Raises ConfigError for what cannot be composed or resolved."""
        try:
            return self._resolved(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(str(error).splitlines()[0]) from None

    def choices(self, overrides: Sequence[str]) -> dict[str, str]:
        """The chosen file of every group."""
        composed = self._base(tuple(filter(_of_group, overrides)))
        return dict(OmegaConf.to_container(composed.hydra.runtime.choices))  # type: ignore[arg-type]

    def _resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        groups = tuple(filter(_of_group, overrides))
        config = deepcopy(self._base(groups))
        values = [override for override in overrides if override not in groups]
        for override in OverridesParser.create().parse_overrides(values):
            key, new = (
                override.key_or_group,
                override.is_add() or override.is_force_add(),
            )
            if override.is_add() and OmegaConf.select(config, key) is not None:
                raise ConfigError(
                    f"+{key}: there is such a key already; leave out the +"
                )
            OmegaConf.update(config, key, override.value(), force_add=new)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        raw = OmegaConf.to_container(config, resolve=True)
        assert isinstance(raw, dict)
        return {str(key): value for key, value in raw.items()}

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._composed:
            self._composed[groups] = compose(
                "config", overrides=list(groups), return_hydra_config=True
            )
        return self._composed[groups]


def _of_group(override: str) -> bool:
    key = key_of(override)
    return "@" in key or "~" in override[:1] or (CONF / key).is_dir()
