"""The most probable classes of any images, by any classifier. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, guarded, mark_started
from unmask.config.arguments import Predict, arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="predict")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error (no image could be read, say), 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        given = arguments(Predict, OmegaConf.to_container(cfg, resolve=True))
        from unmask.commands.predict import SHOWN, predict, table, write_csv

        found = predict(given)
        if given.out:
            write_csv(found, Path(given.out))
    Console().print(table(found, SHOWN if given.out else None))
    if given.out:
        more = f", the first {SHOWN} of them above" if len(found.names) > SHOWN else ""
        Console().print(
            f"{len(found.names)} images: {given.out}{more}",
            soft_wrap=True,
            markup=False,
        )
    if found.assumed:
        Console(stderr=True).print(found.assumed, soft_wrap=True, markup=False)
    for fault in found.faults:
        Console(stderr=True).print(f"skipped: {fault}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    guarded(run, Predict.model_fields)
