"""Copy images into shards, raw pixels or a folder, smaller if wished. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, fail, mark_started, run_command
from unmask.config.arguments import Prepare, fields_by_key, parse_arguments

INTERRUPTED = "interrupted; the same command goes on after what is done"
CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def run(cfg: DictConfig) -> None:
    """Prepare, going on where an earlier call ended.

    Exits with 0 done, 1 error, 2 bad arguments, 130 interrupted.
    """
    mark_started()
    with exit_on_user_error():
        raw = OmegaConf.to_container(cfg, resolve=True)
        arguments = parse_arguments(Prepare, raw)
        # imports torch, for which --help and wrong arguments need not wait
        from unmask.commands.prepare.prepare import prepare

        try:
            prepare(arguments, Console())
        except KeyboardInterrupt:
            fail(INTERRUPTED, 130)


if __name__ == "__main__":
    run_command(run, fields_by_key(Prepare))
