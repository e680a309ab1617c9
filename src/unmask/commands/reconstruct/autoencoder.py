"""Reconstruct images with a pretraining checkpoint."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.commands.images import find_images
from unmask.commands.reconstruct.foreign import (
    NO_READING,
    Reading,
    load_foreign_autoencoder,
)
from unmask.config.checks import (
    ConfigError,
    check,
    check_checkpoint_config,
    complete_config,
)
from unmask.config.groups import HogTarget, TokensTarget
from unmask.config.schema import Config
from unmask.data.images.tensors import PixelTensor, concatenate
from unmask.data.images.unreadable import BadImageError
from unmask.data.listing.names import FolderStore, pack_names
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.module import normalise_images
from unmask.data.loading.sampler import evenly_spread
from unmask.data.loading.views import Views
from unmask.exchange.header import read_header
from unmask.exchange.weight_files import find_weights
from unmask.mae import MAE
from unmask.randomness import make_key
from unmask.reconstructions import Reconstruction, reconstruct
from unmask.stages.fingerprint import resolve_decode
from unmask.stages.plan import make_plan
from unmask.storage import checkpoints
from unmask.targets import AnyTarget, NormalisedPixel, Pixel
from unmask.training import build


def find_checkpoint(path: str | Path) -> Path:
    """Return the file itself, or the newest checkpoint in a stage's folder.

    Raises ConfigError where there is none.
    """
    path = Path(path).expanduser()
    try:
        found = find_weights(path)
    except ValueError as error:
        raise ConfigError(f"checkpoint={error}; see runs/pretrain/*") from None
    # Hugging Face's folders are read as a whole
    if path.is_file() or not found.is_stage:
        return path
    return checkpoints.newest(found.path.parent) or found.path


def reconstruct_images(
    checkpoint: Path,
    images: Path | None,
    count: int,
    mask_ratio: float | None,
    seed: int,
    reading: Reading = NO_READING,
) -> Reconstruction:
    """Load a pretraining checkpoint, hide patches of images and fill them in.

    images: a file or a folder; by default, validation images of the checkpoint's data.
    reading: of weights of others. Raises ConfigError for a checkpoint of another stage,
    one that does not predict pixels, or images that are missing.
    """
    autoencoder = load_autoencoder(checkpoint, mask_ratio, reading)
    images_BCHW = autoencoder.normalised_images(images, count)
    return reconstruct_with(autoencoder, images_BCHW, seed)


def reconstruct_with(
    autoencoder: "LoadedAutoencoder",
    images_BCHW: Float[Tensor, "B C H W"],
    seed: int,
) -> Reconstruction:
    """Hide patches of normalised images and fill them in."""
    make_masking = build.build_masking(autoencoder.config)
    # one key for the seed and ids from 0 on: the same masks whatever the images are
    masking = make_masking(make_key(seed, "picture"), torch.arange(len(images_BCHW)), 0)
    image_format = build.build_format(autoencoder.config)
    return reconstruct(
        autoencoder.model,
        autoencoder.target,
        images_BCHW,
        masking,
        image_format.mean,
        image_format.std,
    )


class LoadedAutoencoder(NamedTuple):
    """Hold a pretrained autoencoder that predicts pixels, and its config.

    notes: what was assumed of weights of others, None for a checkpoint.
    """

    model: MAE
    target: AnyTarget
    config: Config
    notes: tuple[str, ...] | None = None

    def normalised_images(
        self, images: Path | None, count: int
    ) -> Float[Tensor, "B C H W"]:
        """Return images as the model expects them.

        They are read from `images`, or are validation images of the checkpoint's data.
        """
        if images:
            pixels_BCHW = _read_images(images, count, self.config)
        elif self.notes is not None:
            raise ConfigError(
                "images: missing; weights of others bring no images of their own:"
                " give an image or a folder of images"
            )
        else:
            pixels_BCHW = _validation_images(count, self.config)
        return normalise_images(pixels_BCHW, build.build_format(self.config))


def load_autoencoder(
    checkpoint: Path,
    mask_ratio: float | None = None,
    reading: Reading = NO_READING,
) -> LoadedAutoencoder:
    """Load a pretraining checkpoint, or weights of others, that can be drawn.

    Raises ConfigError for a checkpoint of another stage, or one that does not predict
    pixels.
    """
    if "config" not in read_header(checkpoint).record:
        foreign = load_foreign_autoencoder(checkpoint, mask_ratio, reading)
        target = build.build_target(foreign.config)
        assert isinstance(target, Pixel | NormalisedPixel)
        return LoadedAutoencoder(foreign.model, target, foreign.config, foreign.notes)
    content = checkpoints.load(checkpoint)
    header: dict[str, Any] = content.get("unmask", {})
    if lacking := what_is_lacking(header):
        raise ConfigError(f"checkpoint={checkpoint} {lacking}")
    changes = {"mask_ratio": mask_ratio} if mask_ratio is not None else {}
    config = check(complete_config(header["config"]) | changes)
    predicts = build.build_target(config)
    model = build.build_mae(config).eval()
    for part, prefix in ((model, "model."), (predicts, "target.")):
        # Pixel and NormalisedPixel have no weights
        if isinstance(part, nn.Module):
            state = checkpoints.strip_prefix(content["state_dict"], prefix)
            part.load_state_dict(state)
    return LoadedAutoencoder(model, predicts, config)


def what_is_lacking(record: dict[str, Any]) -> str:
    """Say why a checkpoint of this project draws nothing; empty where it does.

    record: what its key "unmask" holds. Raises ConfigError for another version's.
    """
    if record.get("stage") != "pretrain":
        return f"is of stage {record.get('stage')}; only pretraining has a decoder"
    config = check_checkpoint_config(record["config"])
    # DALL-E's file may be large, or not here
    if isinstance(config.target, TokensTarget):
        predicted = "tokens of a dVAE"
    elif build.build_target(config).to_pixels is not None:
        return ""
    elif isinstance(config.target, HogTarget):
        predicted = "histograms of gradients"
    else:
        predicted = config.target.target_
    return f"predicts {predicted}, not pixels: there is nothing to draw"


def _read_images(path: Path, count: int, config: Config) -> PixelTensor:
    """Return images of a file or folder as evaluation sees them, as one batch."""
    root, names = find_images(path)
    data = config.data
    files = StoredImages(
        FolderStore(root, pack_names(names)),
        torch.full((len(names),), -1),
        data.channels,
        resolve_decode(data),
        data.ranges,
    )
    # no other picture stands in for one that cannot be read
    views = Views(files, build.build_format(config), None, 0, allow_substitutes=False)
    images: list[PixelTensor] = []
    faults: list[str] = []
    for i in range(len(names)):
        if len(images) == count:
            break
        try:
            images.append(views.batch(0, [i]).images_BCHW.cpu())
        except BadImageError as error:
            faults.append(str(error))
    if not images:
        raise ValueError(f"none of {len(names)} images can be read; first: {faults[0]}")
    for fault in faults:
        warnings.warn(f"skipped: {fault}", stacklevel=1)
    return concatenate(images)


def _validation_images(count: int, config: Config) -> PixelTensor:
    """Return validation images as evaluation sees them, evenly spread over the split.

    One that cannot be read has its substitute, as in training.
    """
    _, val = build.load_splits(make_plan(config))
    views = Views(val, build.build_format(config), None, 0)
    return views.batch(0, evenly_spread(len(val), count)).images_BCHW.cpu()
