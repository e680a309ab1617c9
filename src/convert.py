"""Weights in and out: the official MAE, Hugging Face, timm, this project's checkpoints and safetensors. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.runs.arguments import Convert, arguments, keyed
from unmask.runs.checks import ConfigError
from unmask.runs.commands import enter, fail, guarded, told

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="convert")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    enter()
    try:
        given = arguments(Convert, OmegaConf.to_container(cfg, resolve=True))
        from unmask.runs.conversion import convert

        table = convert(given)
    except ConfigError as error:
        fail(str(error), 2)
    except (ValueError, OSError) as error:
        fail(told(error), 1)
    Console().print(table)
    Console().print(f"{given.layout}: {given.to}", soft_wrap=True)


if __name__ == "__main__":
    guarded(run, keyed(Convert))
