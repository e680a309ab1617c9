"""Reconstructions by any checkpoint, of any images."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unmask.config.checks import ConfigError, check, check_stored
from unmask.config.groups import HogTarget, TokensTarget
from unmask.config.schema import Config
from unmask.data.augment.crops import centre_boxes, crop_resize
from unmask.data.images.unreadable import Bad, BadImageError, candidates, none_of
from unmask.data.listing.listing import SUFFIXES
from unmask.data.loading.folders import Files, open_image, stored
from unmask.data.loading.in_memory import InMemory
from unmask.mae import MAE
from unmask.randomness import make_key
from unmask.reconstructions import Reconstruction, reconstruct
from unmask.stages.plan import make_plan
from unmask.storage import checkpoints
from unmask.targets import NormalisedPixel, PatchPCA, Pixel
from unmask.training import build


def checkpoint_file(place: str | Path) -> Path:
    """The file itself, or the newest checkpoint of a stage's folder. Raises ConfigError where there is none."""
    place = Path(place)
    if place.is_file():
        return place
    folder = place if place.name == "checkpoints" else place / "checkpoints"
    newest = checkpoints.newest(folder)
    if newest is None:
        raise ConfigError(
            f"checkpoint={place}: neither a file nor a folder with checkpoints; see"
            " runs/pretrain/*"
        )
    return newest


def reconstruct_images(
    checkpoint: Path,
    images: Path | None,
    count: int,
    mask_ratio: float | None,
    seed: int,
) -> Reconstruction:
    """Load a pretraining checkpoint, hide patches of the images, fill them in.

    Raises ConfigError for a checkpoint of another stage, one that predicts no pixels, or images that are missing.
    """
    loaded = load_autoencoder(checkpoint, mask_ratio)
    batch_BCHW = loaded.normalised(images, count)
    masking = build.build_masking(loaded.config)(
        make_key(seed, "picture"), torch.arange(len(batch_BCHW)), 0
    )
    form = build.build_format(loaded.config)
    return reconstruct(
        loaded.model, loaded.target, batch_BCHW, masking, form.mean, form.std
    )


class Loaded(NamedTuple):
    """A pretrained autoencoder that predicts pixels, and the config it was trained by."""

    model: MAE
    target: Pixel | NormalisedPixel | PatchPCA
    config: Config

    def normalised(self, images: Path | None, count: int) -> Tensor:
        """Images as the model sees them: given ones, or validation images of its own data."""
        raw_BCHW = (
            _given_images(images, count, self.config)
            if images
            else _own_images(count, self.config)
        )
        form = build.build_format(self.config)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (form.mean, form.std))
        return (raw_BCHW / 255 - mean) / std


def load_autoencoder(checkpoint: Path, mask_ratio: float | None = None) -> Loaded:
    """Raises ConfigError for a checkpoint of another stage, or one that predicts no pixels."""
    content = checkpoints.load(checkpoint)
    about: dict[str, Any] = content.get("unmask", {})
    if about.get("stage") != "pretrain":
        raise ConfigError(
            f"checkpoint={checkpoint} is of stage {about.get('stage')}; only"
            " pretraining has a decoder"
        )
    check_stored(about["config"])
    config = check(
        about["config"] | ({"mask_ratio": mask_ratio} if mask_ratio is not None else {})
    )
    if isinstance(config.target, HogTarget | TokensTarget):
        what = (
            "histograms of gradients"
            if isinstance(config.target, HogTarget)
            else "tokens of a dVAE"
        )
        raise ConfigError(
            f"checkpoint={checkpoint} predicts {what}, not pixels: there is nothing to"
            " draw"
        )
    target, state = build.build_target(config), content["state_dict"]
    assert isinstance(target, Pixel | NormalisedPixel | PatchPCA)
    model = build.build_mae(config).eval()
    for part, prefix in ((model, "model."), (target, "target.")):
        if isinstance(part, nn.Module):
            part.load_state_dict(checkpoints.below(state, prefix))
    return Loaded(model, target, config)


def _given_images(place: Path, count: int, config: Config) -> torch.Tensor:
    if not place.exists():
        raise ConfigError(f"images={place}: no such file or folder")
    files = (
        [place]
        if place.is_file()
        else sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
    )
    if not files:
        raise ConfigError(
            f"images={place}: no images in it ({' '.join(sorted(SUFFIXES))})"
        )
    return torch.cat(
        [_fit(open_image(path, config.data.channels), config) for path in files[:count]]
    )


def _own_images(count: int, config: Config) -> torch.Tensor:
    """Validation images, spread over the set."""
    _, val = build.load_splits(make_plan(config))
    chosen = (
        torch.linspace(0, len(val) - 1, min(count, len(val))).long().unique().tolist()
    )
    if isinstance(val, InMemory):
        return torch.cat([_fit(val.images_NCHW[i], config) for i in chosen])
    return torch.cat([_fit(_standing(val, i), config) for i in chosen])


def _standing(files: Files, i: int) -> torch.Tensor:
    """The image, or the one that stands in for it in training."""
    bad = []
    for other in candidates(i, len(files)):
        try:
            return stored(files, other)
        except BadImageError as error:
            bad.append(Bad(other, error.name, error.reason))
    raise none_of(bad)


def _fit(image_CHW: torch.Tensor, config: Config) -> torch.Tensor:
    """The centre crop that evaluation uses."""
    size_12 = torch.tensor([image_CHW.shape[1:]])
    boxes = centre_boxes(size_12, config.data.image_size, config.data.eval_crop)
    return crop_resize(image_CHW[None], boxes, config.data.image_size)
