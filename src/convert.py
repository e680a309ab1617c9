"""Weights in and out: the official MAE, Hugging Face, timm, this project's checkpoints and safetensors. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, guarded, mark_started
from unmask.config.arguments import Convert, arguments, keyed

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="convert")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        given = arguments(Convert, OmegaConf.to_container(cfg, resolve=True))
        from unmask.commands.convert import convert

        table = convert(given)
    Console().print(table)
    Console().print(f"{given.layout}: {given.to}", soft_wrap=True)


if __name__ == "__main__":
    guarded(run, keyed(Convert))
