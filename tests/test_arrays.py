"""Arrays and TIFFs are read channels last, or refused with a reason.

They may have any number of channels and order of axes; test_depth.py has their depths.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from unmask.data.images.decoding import BadImageError, read_header
from unmask.data.loading.folders import read_image

GENERATOR = np.random.default_rng(0)
BANDS = GENERATOR.integers(0, 256, (6, 8, 5), dtype=np.uint8)
CHW = np.moveaxis(BANDS, 2, 0)
MINISBLACK: dict[str, Any] = {"photometric": "minisblack"}
LAYOUTS = {
    "interleaved": (BANDS, MINISBLACK | {"planarconfig": "contig"}),
    "planar": (CHW, MINISBLACK | {"planarconfig": "separate"}),
    "a page per channel": (CHW, MINISBLACK),
    # how tifffile writes (H, W, 5) by default
    "a page per row": (BANDS, MINISBLACK),
    "deflated": (CHW, MINISBLACK | {"compression": "zlib"}),
    "ImageJ": (CHW, MINISBLACK | {"imagej": True}),
    "OME": (CHW, MINISBLACK | {"ome": True, "metadata": {"axes": "CYX"}}),
}


def read_pixels(path: Path, channels: int) -> np.ndarray:
    image = read_image(path, channels).permute(1, 2, 0).numpy()
    # the header alone gives the same size
    assert read_header(path.read_bytes(), str(path), channels).size == image.shape[:2]
    return image


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_of_a_tiff_are_found_in_any_layout(
    layout: str, tmp_path: Path
) -> None:
    array, how = LAYOUTS[layout]
    tifffile.imwrite(tmp_path / "bands.tif", array, **how)
    assert (read_pixels(tmp_path / "bands.tif", 5) == BANDS).all()


def test_eight_bit_colour_is_read_by_pillow(tmp_path: Path) -> None:
    rgb = BANDS[:, :, :3]
    tifffile.imwrite(tmp_path / "plain.tif", rgb, photometric="rgb")
    assert (read_pixels(tmp_path / "plain.tif", 3) == rgb).all()
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    assert (read_pixels(tmp_path / "plain.tif", 1)[:, :, 0] == grey).all()


@pytest.mark.parametrize("channels_first", [False, True])
def test_npy_arrays_may_have_their_channels_first_or_last(
    channels_first: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "bands.NPY.npy", CHW if channels_first else BANDS)
    assert (read_pixels(tmp_path / "bands.NPY.npy", 5) == BANDS).all()
    np.save(tmp_path / "bool.npy", BANDS > 99)
    assert (read_pixels(tmp_path / "bool.npy", 5) == (BANDS > 99) * 255).all()
    both = GENERATOR.integers(0, 256, (5, 8, 5), dtype=np.uint8)
    np.save(tmp_path / "both.npy", both)
    # the last axis, if both have the right size
    assert (read_pixels(tmp_path / "both.npy", 5) == both).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            BANDS.astype(np.float32),
            r"float32 values reach from 0 to 255, .*; set data.range=\[low,high\]",
        ),
        (np.full((6, 8, 5), np.nan, np.float32), r"it holds NaN; fill these pixels"),
        (
            BANDS.astype(np.int32),
            r"int32 values reach from 0 to 255, .*; set data.range=\[low,high\]",
        ),
        (BANDS.astype(np.complex64), r"it holds complex64; save integers or floats"),
        (
            BANDS[:, :, :4],
            (
                r"it holds uint8 of shape \(6, 8, 4\).*; data.channels=5 needs \(H, W,"
                r" 5\) or \(5, H, W\); set data.channels=4"
            ),
        ),
        (np.zeros((2, 6, 8, 5), np.uint8), r"it holds uint8 of shape \(2, 6, 8, 5\)"),
    ],
    ids=["floats", "nan", "int32", "complex", "channels", "axes"],
)
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_arrays_without_a_known_scale_or_with_other_axes_are_refused(
    array: np.ndarray, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"odd.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, photometric="minisblack")
    with pytest.raises(
        BadImageError, match=rf"odd.{suffix} cannot be read as an image .*{message}"
    ):
        read_image(path, 5)


def test_a_damaged_tiff_is_refused_and_a_png_named_tif_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "cut.tif", BANDS, photometric="minisblack", planarconfig="contig"
    )
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:200])
    with pytest.raises(BadImageError, match=r"cut.tif cannot be read"):
        read_image(tmp_path / "cut.tif", 5)
    Image.fromarray(BANDS[:, :, 0]).save(tmp_path / "named.png")
    (tmp_path / "named.png").rename(tmp_path / "named.tif")
    assert (read_pixels(tmp_path / "named.tif", 1)[:, :, 0] == BANDS[:, :, 0]).all()


def test_an_array_of_one_number_is_refused_with_its_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.uint8(3))
    with pytest.raises(
        BadImageError,
        match=r"it holds uint8 of shape \(\); data.channels=5 needs .*\(5, H, W\)\);",
    ):
        read_image(tmp_path / "one.npy", 5)
