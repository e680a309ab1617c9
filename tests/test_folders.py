"""Image files are read upright, with the wanted channels.

Errors name the file.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.listing.listing import list_images
from unmask.data.loading.folders import (
    StoredImages,
    read_image,
    read_stored,
    splits_from_listing,
)
from unmask.data.loading.in_memory import InMemory

RAMP = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=exif)
    assert (
        read_image(tmp_path / "turned.png", 1)[0].numpy() == np.rot90(RAMP, -1)
    ).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_is_converted_to_the_wanted_channels(
    mode: str, tmp_path: Path
) -> None:
    colours = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(colours).convert(mode).save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
        expected = np.asarray(saved.convert("RGB"))
    assert (read_image(path, 3).permute(1, 2, 0).numpy() == expected).all()
    assert read_image(path, 1).shape == (1, 6, 8)


@pytest.mark.parametrize("shape", [(6, 8, 5), (6, 8)])
def test_arrays_carry_any_number_of_channels(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "bands.npy", array)
    image = read_image(tmp_path / "bands.npy", 5 if len(shape) == 3 else 1)
    assert (image.permute(1, 2, 0).numpy() == array.reshape(6, 8, -1)).all()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    with pytest.raises(
        ValueError,
        match=r"broken.jpg cannot be read as an image .*; mend or remove the file",
    ):
        read_image(tmp_path / "broken.jpg", 3)


def test_an_array_of_another_kind_is_refused_with_what_is_needed(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "bands.npy", np.zeros((6, 8, 5)))
    message = (
        r"bands.npy .*it holds float64 of shape \(6, 8, 5\); data.channels=3 needs \(H,"
        r" W, 3\) or \(3, H, W\)"
    )
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "bands.npy", 3)
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    with pytest.raises(
        ValueError, match=r"image files have 1, 3 or 4 channels, not 5; use .npy arrays"
    ):
        read_image(tmp_path / "grey.png", 5)


def folder(root: Path, *sizes: tuple[int, int]) -> Path:
    generator = np.random.default_rng(0)
    for i, (height, width) in enumerate(sizes):
        image = Image.fromarray(
            generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        )
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        image.save(root / f"class{i % 2}" / f"{i:03d}.png")
    return root


def test_images_in_memory_are_those_of_the_files(tmp_path: Path) -> None:
    listing = list_images(folder(tmp_path, *[(8, 8)] * 12), holdout=0.5)
    loaded, stored = (
        splits_from_listing(listing, 3, (8, 8), in_memory)
        for in_memory in (True, False)
    )
    for memory, files in zip(loaded, stored, strict=True):
        assert isinstance(memory, InMemory)
        assert isinstance(files, StoredImages)
        assert memory.images_NCHW.equal(
            torch.stack([read_stored(files, i) for i in range(len(files))])
        )
        assert memory.labels_N.equal(files.labels_N)


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [([(8, 8)] * 6, InMemory), ([(8, 8)] * 4 + [(9, 8)] * 2, StoredImages)],
)
def test_only_images_of_the_wanted_size_are_loaded_into_memory(
    sizes: list[tuple[int, int]], kind: type, tmp_path: Path
) -> None:
    splits = splits_from_listing(
        list_images(folder(tmp_path, *sizes), holdout=0.5), 3, (8, 8), in_memory=None
    )
    assert {type(split) for split in splits} == {kind}


def test_an_odd_size_in_memory_is_named_with_the_remedy(tmp_path: Path) -> None:
    listing = list_images(folder(tmp_path, (8, 8), (8, 8), (9, 8), (8, 8)), holdout=0.5)
    with pytest.raises(
        ValueError,
        match=r"\.png is 9 x 8, data.image_size is 8 x 8; .* set data.in_memory=false",
    ):
        splits_from_listing(listing, 3, (8, 8), in_memory=True)
