"""Original, masked, reconstruction, for any checkpoint and any images, as one PNG. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, guarded, mark_started
from unmask.config.arguments import Reconstruct, arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reconstruct")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        given = arguments(Reconstruct, OmegaConf.to_container(cfg, resolve=True))
        from unmask.commands.reconstruct import checkpoint_file, reconstruct_images
        from unmask.reconstructions import save_sheet

        images = Path(given.images) if given.images else None
        result = reconstruct_images(
            checkpoint_file(given.checkpoint),
            images,
            given.count,
            given.mask_ratio,
            given.seed,
        )
        save_sheet(result, Path(given.out))
    Console().print(f"{len(result.original_BCHW)} images: {given.out}", soft_wrap=True)


if __name__ == "__main__":
    guarded(run, Reconstruct.model_fields)
