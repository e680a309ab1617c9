"""Make a non-finite training step again: src/replay.py <folder>. See --help."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import (
    exit_on_user_error,
    mark_started,
    positional_to_key,
    run_command,
)
from unmask.config.arguments import Replay, parse_arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="replay")
def run(cfg: DictConfig) -> None:
    """Replay the step of a record.

    Exits with 0 the same step, 1 another one or an error, 2 bad arguments: no record, a
    damaged one, or its images are gone.
    """
    mark_started()
    with exit_on_user_error():
        raw = OmegaConf.to_container(cfg, resolve=True)
        arguments = parse_arguments(Replay, raw)
        # imports torch, for which --help and wrong arguments need not wait
        from unmask.commands.replay.replay import replay

        is_same = replay(arguments.folder, Console())
    if not is_same:
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[1:] = positional_to_key(sys.argv[1:], "folder")
    run_command(run, Replay.model_fields)
