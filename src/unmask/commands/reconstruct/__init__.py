"""Draw images beside what a pretrained autoencoder makes of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unmask.config.section import Count, OpenFraction, Section, Seed

if TYPE_CHECKING:
    from unmask.reconstructions import Reconstruction


class Reconstruct(Section):
    checkpoint: str
    images: str | None
    count: Count
    mask_ratio: OpenFraction | None
    seed: Seed
    out: str


def run(arguments: Reconstruct) -> "Reconstruction":
    """Reconstruct images and draw them into one PNG."""
    from unmask.commands.reconstruct.autoencoder import (
        find_checkpoint,
        reconstruct_images,
    )
    from unmask.reconstructions import save_sheet

    reconstruction = reconstruct_images(
        find_checkpoint(arguments.checkpoint),
        Path(arguments.images) if arguments.images else None,
        arguments.count,
        arguments.mask_ratio,
        arguments.seed,
    )
    save_sheet(reconstruction, Path(arguments.out))
    count = len(reconstruction.original_BCHW)
    Console().print(f"{count} images: {arguments.out}", soft_wrap=True)
    return reconstruction
