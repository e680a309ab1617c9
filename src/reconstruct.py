"""Draw original, masked image and reconstruction, as one PNG. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, mark_started, run_command
from unmask.config.arguments import Reconstruct, parse_arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reconstruct")
def run(cfg: DictConfig) -> None:
    """Reconstruct and draw; exits with 0 done, 1 error, 2 bad arguments."""
    mark_started()
    with exit_on_user_error():
        raw = OmegaConf.to_container(cfg, resolve=True)
        arguments = parse_arguments(Reconstruct, raw)
        # imports torch, for which --help and wrong arguments need not wait
        from unmask.commands.reconstruct import find_checkpoint, reconstruct_images
        from unmask.reconstructions import save_sheet

        result = reconstruct_images(
            find_checkpoint(arguments.checkpoint),
            Path(arguments.images) if arguments.images else None,
            arguments.count,
            arguments.mask_ratio,
            arguments.seed,
        )
        save_sheet(result, Path(arguments.out))
    count = len(result.original_BCHW)
    Console().print(f"{count} images: {arguments.out}", soft_wrap=True)


if __name__ == "__main__":
    run_command(run, Reconstruct.model_fields)
