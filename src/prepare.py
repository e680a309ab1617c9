"""Images into tar shards, Parquet, LitData's chunks, raw pixels or a folder, smaller if wished. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, fail, guarded, mark_started
from unmask.config.arguments import Prepare, arguments, keyed

LEFT = "interrupted; the same command goes on after what is done"
CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments, 130 interrupted. Run again after a kill it goes on."""
    mark_started()
    with exit_on_user_error():
        given = arguments(Prepare, OmegaConf.to_container(cfg, resolve=True))
        from unmask.commands.prepare import prepare

        try:
            prepare(given, Console())
        except KeyboardInterrupt:
            fail(LEFT, 130)


if __name__ == "__main__":
    guarded(run, keyed(Prepare))
