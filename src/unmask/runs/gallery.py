"""Reconstructions by any checkpoint, of any images."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask import checkpoints
from unmask.data.crops import centre_boxes, crop_resize
from unmask.data.folders import open_image
from unmask.data.listing import SUFFIXES
from unmask.data.sources import InMemory
from unmask.randomness import make_key
from unmask.reconstructions import Reconstruction, reconstruct
from unmask.runs import build
from unmask.runs.checks import ConfigError, check, check_stored
from unmask.runs.plan import make_plan
from unmask.runs.schema import Config, HogTarget, TokensTarget


def checkpoint_file(place: str | Path) -> Path:
    """The file itself, or the newest checkpoint of a stage's folder. Raises ConfigError where there is none."""
    place = Path(place)
    if place.is_file():
        return place
    folder = place if place.name == "checkpoints" else place / "checkpoints"
    newest = checkpoints.newest(folder)
    if newest is None:
        raise ConfigError(f"checkpoint={place}: neither a file nor a folder with checkpoints; see runs/pretrain/*")
    return newest


def reconstruct_images(
    checkpoint: Path, images: Path | None, count: int, mask_ratio: float | None, seed: int
) -> Reconstruction:
    """Load a pretraining checkpoint, hide patches of the images, fill them in.

    Raises ConfigError for a checkpoint of another stage, or images that are missing.
    """
    content = checkpoints.load(checkpoint)
    about: dict[str, Any] = content.get("unmask", {})
    if about.get("stage") != "pretrain":
        raise ConfigError(f"checkpoint={checkpoint} is of stage {about.get('stage')}; only pretraining has a decoder")
    check_stored(about["config"])
    raw = about["config"] | ({"mask_ratio": mask_ratio} if mask_ratio is not None else {})
    config = check(raw)
    if isinstance(config.target, HogTarget | TokensTarget):
        raise ConfigError(f"checkpoint={checkpoint} predicts {config.target.target_.rsplit('.', 1)[1]}, not pixels")
    target, state = build.build_target(config), content["state_dict"]
    model = build.build_mae(config, target).eval()
    for part, prefix in ((model, "model."), (target, "target.")):
        if isinstance(part, nn.Module):
            part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    raw_BCHW = _given_images(images, count, config) if images else _own_images(count, config)
    form = build.build_format(config)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (form.mean, form.std))
    batch_BCHW = (raw_BCHW / 255 - mean) / std
    masking = build.build_masking(config)(make_key(seed, "picture"), torch.arange(len(batch_BCHW)), 0)
    return reconstruct(model, target, batch_BCHW, masking, form.mean, form.std)


def _given_images(place: Path, count: int, config: Config) -> torch.Tensor:
    if not place.exists():
        raise ConfigError(f"images={place}: no such file or folder")
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"images={place}: no images in it ({' '.join(sorted(SUFFIXES))})")
    return torch.cat([_fit(open_image(path, config.data.channels), config) for path in files[:count]])


def _own_images(count: int, config: Config) -> torch.Tensor:
    """Validation images, spread over the set."""
    _, val = build.load_splits(make_plan(config))
    chosen = torch.linspace(0, len(val) - 1, min(count, len(val))).long().unique().tolist()
    if isinstance(val, InMemory):
        return torch.cat([_fit(val.images_NCHW[i], config) for i in chosen])
    return torch.cat([_fit(open_image(val.paths[i], val.channels), config) for i in chosen])


def _fit(image_CHW: torch.Tensor, config: Config) -> torch.Tensor:
    """The centre crop that evaluation uses."""
    size_12 = torch.tensor([image_CHW.shape[1:]])
    boxes = centre_boxes(size_12, config.data.image_size, config.data.eval_crop)
    return crop_resize(image_CHW[None], boxes, config.data.image_size)
