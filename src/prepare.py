"""Images into tar shards, Parquet, LitData's chunks, raw pixels or a folder, smaller if wished. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.runs.arguments import Prepare, arguments, keyed
from unmask.runs.commands import enter, explained, guarded

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments. Run again after a kill it goes on."""
    enter()
    with explained():
        given = arguments(Prepare, OmegaConf.to_container(cfg, resolve=True))
        from unmask.runs.preparing import prepare

        prepare(given, Console())


if __name__ == "__main__":
    guarded(run, keyed(Prepare))
