"""What the page looks into: an encoder on disk, with its decoder where it has one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.commands.reconstruct.autoencoder import (
    LoadedAutoencoder,
    find_checkpoint,
    load_autoencoder,
    what_is_lacking,
)
from unmask.commands.reconstruct.foreign import Reading
from unmask.data.images.depth import Ranges
from unmask.data.images.unreadable import BadImageError, printable
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import normalise_images
from unmask.data.loading.views import Views
from unmask.encoder import AnyEncoder
from unmask.exchange.header import read_header
from unmask.exchange.outline import read_outline
from unmask.training import build
from unmask.training.encoders import load_trained_encoder

NO_DECODER = "holds no decoder, which draws the hidden patches"


@dataclass(frozen=True)
class StudioModel:
    """Hold an encoder in eval mode, and how images are prepared for it.

    autoencoder: None where nothing can be filled in; lacking says why. notes: what was
    assumed of weights of others.
    """

    name: str
    encoder: AnyEncoder
    image_format: ImageFormat
    autoencoder: LoadedAutoencoder | None = None
    lacking: str = ""
    notes: tuple[str, ...] = ()
    ranges: Ranges | None = None

    @property
    def channels(self) -> int:
        return self.encoder.channels

    def read_picture(self, path: Path) -> Float[Tensor, "1 C H W"]:
        """Read a file as evaluation sees it, normalised.

        Raises ValueError where it cannot be read.
        """
        store = FolderStore(path.parent, pack_names([path.name]))
        no_labels_N = torch.full((1,), -1)
        files = StoredImages(store, no_labels_N, self.channels, ranges=self.ranges)
        views = Views(files, self.image_format, None, 0, allow_substitutes=False)
        try:
            pixels_BCHW = views.batch(0, [0]).images_BCHW.cpu()
        except BadImageError as error:
            raise ValueError(
                f"{printable(path.name)} cannot be read as an image ({error.reason})"
            ) from None
        return normalise_images(pixels_BCHW, self.image_format)


def load_studio_model(location: Path, reading: Reading) -> StudioModel:
    """Load a checkpoint of any stage, or weights of others, with or without decoder.

    Raises ConfigError where there is no encoder, ValueError where the file cannot be
    read.
    """
    path = find_checkpoint(location)
    name = short_name(location)
    record = read_header(path).record
    if "config" in record:
        lacking = what_is_lacking(record)
    else:
        outline = read_outline(path, reading.hints, choice=reading.weights)
        lacking = "" if outline.geometry.decoder else NO_DECODER
    if lacking:
        trained = load_trained_encoder(path, reading.hints, choice=reading.weights)
        return StudioModel(
            name,
            trained.encoder,
            trained.image_format,
            None,
            lacking,
            trained.notes,
            trained.ranges,
        )
    autoencoder = load_autoencoder(path, reading=reading)
    return StudioModel(
        name,
        autoencoder.model.encoder,
        build.build_format(autoencoder.config),
        autoencoder,
        notes=autoencoder.notes or (),
        ranges=autoencoder.config.data.ranges,
    )


def short_name(location: Path) -> str:
    """Return the last parts of a path that tell two checkpoints apart."""
    stage = location.parent.parent
    # runs/pretrain/<fingerprint>/checkpoints/step=N.ckpt
    if location.parent.name == "checkpoints":
        return f"{stage.parent.name}/{stage.name}/{location.name}"
    return "/".join(location.parts[-2:])
