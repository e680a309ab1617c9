"""Draw images beside what a pretrained autoencoder makes of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from rich.console import Console

from unmask.commands.foreign_weights import (
    check_foreign,
    print_notes,
    refuse_hints,
    require_decoder,
)
from unmask.commands.units import count_noun
from unmask.config.section import Count, OpenFraction, PathText, Section, Seed
from unmask.config.stage_paths import StagePath
from unmask.exchange.geometry import Hints

if TYPE_CHECKING:
    from PIL import Image

    from unmask.commands.reconstruct.autoencoder import LoadedAutoencoder


def as_ratios(value: Any) -> Any:
    """Turn one number, or text such as "0.75,0.95", into a list of ratios."""
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, int | float) else value


class Reconstruct(Section):
    checkpoint: StagePath
    images: PathText | None
    count: Count
    mask_ratio: (
        Annotated[list[OpenFraction], BeforeValidator(as_ratios), Field(min_length=1)]
        | None
    )
    seed: Seed
    out: PathText
    # for weights of others alone
    target: Literal["pixel", "pixel_norm"] | None
    weights: str | None
    grid: tuple[Count, Count] | None
    heads: Count | None
    decoder_heads: Count | None


def run(arguments: Reconstruct) -> "Image.Image":
    """Reconstruct images and draw them into one PNG.

    Raises ConfigError for a checkpoint that cannot be drawn.
    """
    hints = Hints(arguments.heads, arguments.decoder_heads, arguments.grid)
    checkpoint = Path(arguments.checkpoint)
    outline = check_foreign("checkpoint", checkpoint, hints, arguments.weights)
    if outline:
        require_decoder(outline)
    else:
        refuse_hints(
            checkpoint, hints, weights=arguments.weights, target=arguments.target
        )
    # torch takes seconds: imported once the weights are checked
    from unmask.commands.reconstruct.autoencoder import (
        find_checkpoint,
        load_autoencoder,
    )
    from unmask.commands.reconstruct.foreign import Reading
    from unmask.reconstructions import save_sheet

    ratios = arguments.mask_ratio or []
    autoencoder = load_autoencoder(
        find_checkpoint(arguments.checkpoint),
        ratios[0] if ratios else None,
        Reading(hints, arguments.weights, arguments.target),
    )
    path = Path(arguments.images) if arguments.images else None
    images_BCHW = autoencoder.normalised_images(path, arguments.count)
    out = Path(arguments.out)
    sheet = _draw(autoencoder, images_BCHW, ratios, arguments.seed)
    save_sheet(sheet, out)
    print_notes(autoencoder.notes or ())
    Console().print(f"{count_noun(len(images_BCHW), 'image')}: {out}", soft_wrap=True)
    return sheet


def _draw(
    autoencoder: "LoadedAutoencoder", images_BCHW: Any, ratios: list[float], seed: int
) -> "Image.Image":
    """Draw triples at one ratio, or a row for each image with all of them."""
    from unmask.commands.reconstruct.autoencoder import reconstruct_with
    from unmask.reconstructions import contact_sheet, ratio_sheet
    from unmask.training.build import build_format

    if len(ratios) < 2:
        return contact_sheet(reconstruct_with(autoencoder, images_BCHW, seed))
    image_format = build_format(autoencoder.config)
    return ratio_sheet(
        autoencoder.model,
        autoencoder.target,
        images_BCHW,
        image_format.mean,
        image_format.std,
        tuple(ratios),
        seed,
    )
