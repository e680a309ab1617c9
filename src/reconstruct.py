"""Original, masked, reconstruction, for any checkpoint and any images, as one PNG. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from unmask.runs.checks import ConfigError
from unmask.runs.commands import enter, fail, guarded, told

CONF = Path(__file__).parent.parent / "conf"
KEYS = ("checkpoint", "images", "count", "mask_ratio", "seed", "out")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reconstruct")
def run(cfg: DictConfig) -> None:
    """Exits with 0 done, 1 error, 2 bad arguments."""
    enter()
    if cfg.checkpoint is None:
        fail("checkpoint: missing; give a file or a stage's folder: checkpoint=runs/pretrain/<fingerprint>", 2)
    from unmask.reconstructions import save_sheet
    from unmask.runs.gallery import checkpoint_file, reconstruct_images

    try:
        images = Path(cfg.images) if cfg.images else None
        result = reconstruct_images(checkpoint_file(cfg.checkpoint), images, cfg.count, cfg.mask_ratio, cfg.seed)
        save_sheet(result, Path(cfg.out))
    except ConfigError as error:
        fail(str(error), 2)
    except (ValueError, OSError) as error:
        fail(told(error), 1)
    Console().print(f"{len(result.original_BCHW)} images: {cfg.out}", soft_wrap=True)


if __name__ == "__main__":
    guarded(run, KEYS)
