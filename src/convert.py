"""Convert weights: official MAE, Hugging Face, timm, this project. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, mark_started, run_command
from unmask.config.arguments import Convert, fields_by_key, parse_arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="convert")
def run(cfg: DictConfig) -> None:
    """Convert and print what was done; exits with 0 done, 1 error, 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        raw = OmegaConf.to_container(cfg, resolve=True)
        arguments = parse_arguments(Convert, raw)
        # imports torch, for which --help and wrong arguments need not wait
        from unmask.commands.convert import convert

        table = convert(arguments)
    Console().print(table)
    Console().print(f"{arguments.layout}: {arguments.to}", soft_wrap=True)


if __name__ == "__main__":
    run_command(run, fields_by_key(Convert))
