"""Pictures to choose from, as files: the user's, or validation images of the data."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unmask.commands.images import find_images
from unmask.commands.studio.models import StudioModel
from unmask.commands.units import count_noun
from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.data.images.tensors import PixelTensor
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.sampler import evenly_spread
from unmask.stages.plan import make_plan
from unmask.training import build


def find_examples(
    model: StudioModel, images: Path | None, count: int, folder: Path
) -> tuple[list[Path], str]:
    """Return files to choose from, and a note where there are none.

    images: a file or a folder; None takes validation images of the model's data, which
    are written into the folder. Raises ConfigError where `images` has none that can be
    read.
    """
    if images:
        return _readable(model, images, count)
    if model.autoencoder is None or model.autoencoder.notes is not None:
        return (
            [],
            "no pictures to choose from: give some with images=FOLDER, or drop one",
        )
    try:
        return _write_validation(model.autoencoder.config, count, folder), ""
    # the data may lie elsewhere by now: the page does without
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        return [], f"the data's own pictures cannot be read ({first}): drop one"


def _readable(model: StudioModel, images: Path, count: int) -> tuple[list[Path], str]:
    """Return the first files that can be read, and a note on those before them.

    Raises ConfigError where none can.
    """
    root, names = find_images(images)
    found: list[Path] = []
    reasons: list[str] = []
    for name in names:
        try:
            model.read_picture(root / name)
        except ValueError as error:
            reasons.append(str(error))
            continue
        found.append(root / name)
        if len(found) == count:
            break
    if not found:
        raise ConfigError(f"images={images}: {reasons[0]}; none can be read")
    note = ""
    if reasons:
        note = f"left out: {reasons[0]}; {count_noun(len(reasons), 'file')} in all"
    return found, note


def _write_validation(config: Config, count: int, folder: Path) -> list[Path]:
    """Write validation images as they are stored, evenly spread over the split."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, val = build.load_splits(make_plan(config))
    return [_write_one(val, i, folder) for i in evenly_spread(len(val), count)]


def _write_one(val: InMemory | StoredImages, i: int, folder: Path) -> Path:
    if isinstance(val, InMemory):
        return _write_pixels(val.images_NCHW[i], folder / f"{i}")
    content = val.store.read(i)
    if not isinstance(content, bytes):
        return _write_pixels(torch.from_numpy(content), folder / f"{i}")
    path = folder / f"{i}{Path(val.store.name(i)).suffix}"
    path.write_bytes(content)
    return path


def _write_pixels(pixels_CHW: PixelTensor, stem: Path) -> Path:
    """Write bytes of one or three channels as PNG, and all others as an array."""
    array = pixels_CHW.numpy()
    if array.dtype != np.uint8 or len(array) not in (1, 3):
        path = stem.with_suffix(".npy")
        np.save(path, array)
        return path
    path = stem.with_suffix(".png")
    shown = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    Image.fromarray(shown).save(path)
    return path
