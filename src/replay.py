"""A training step that was not finite, made again, and what would have helped: src/replay.py <folder>. See --help."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, guarded, mark_started, one_word
from unmask.config.arguments import Replay, arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="replay")
def run(cfg: DictConfig) -> None:
    """Exits with 0 the same step, 1 not the same or error, 2 bad arguments: no record, a damaged one, images gone."""
    mark_started()
    with exit_on_user_error():
        given = arguments(Replay, OmegaConf.to_container(cfg, resolve=True))
        from unmask.commands.replay.replay import replay

        same = replay(given.folder, Console())
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.argv[1:] = one_word(sys.argv[1:], "folder")
    guarded(run, Replay.model_fields)
