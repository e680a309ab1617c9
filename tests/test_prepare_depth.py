"""Images of more than 8 bits keep them when they are prepared, in any container."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards import run_prepare
from test_depth import deep_png, tiff
from unmask.commands.prepare.transcode import Transcode
from unmask.data.images.decoding import decode_values, read_header
from unmask.data.loading.folders import read_stored, splits_from_listing
from unmask.data.sources import list_source

GENERATOR = np.random.default_rng(0)


def write_images(root: Path) -> Path:
    """Write 16-bit colours, and signed and floating-point bands, of 20 x 16 pixels."""
    for split in ("train", "val"):
        for i in range(3):
            colours = GENERATOR.integers(0, 4096, (20, 16, 3)).astype(np.uint16)
            content = {
                0: deep_png(colours),
                1: tiff(colours.astype(np.int16) - 1000, planarconfig="contig"),
                2: tiff(colours.astype(np.float32) / 7, planarconfig="contig"),
            }[i]
            path = root / split / "a" / f"{i}.{'png' if i == 0 else 'tif'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet", "litdata", "raw"])
def test_values_are_the_folders_in_any_container(kind: str, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images")
    run_prepare(root, tmp_path / "made", kind)
    again = tmp_path / "made"
    ranges = ((-1000.0, 4095.0),)

    def read(root: Path, container: str) -> list[np.ndarray]:
        listing = list_source("image_folder", str(root), container=container)
        splits = splits_from_listing(listing, 3, (20, 16), False, "fast", ranges)
        return [read_stored(split, i).numpy() for split in splits for i in range(3)]

    before, after = read(root, "folder"), read(again, kind)
    assert all(map(np.array_equal, before, after))
    assert before[0].dtype == np.float32


@pytest.mark.parametrize("kind", ["png", "signed", "float"])
def test_smaller_copies_are_stored_without_loss(kind: str) -> None:
    values = GENERATOR.integers(0, 4096, (40, 30, 1)).astype(np.uint16)
    name = "x.png" if kind == "png" else "x.tif"
    content = {
        "png": deep_png(values),
        "signed": tiff(values.astype(np.int16) - 999),
        "float": tiff(values.astype(np.float32)),
    }[kind]
    stored = decode_values(read_header(content, name, 1))
    # they become smaller as training makes them smaller, and no JPEG
    expected = np.asarray(
        Image.fromarray(stored[:, :, 0].astype(np.float32)).resize(
            (15, 20), Image.Resampling.BICUBIC
        )
    ).clip(stored.min(), stored.max())
    for transcode in (Transcode(15, None, 1), Transcode(15, 90)):
        smaller = transcode(content, name)
        if kind != "png" and transcode.channels is None:
            # arrays are copied
            assert smaller == content
            continue
        read = decode_values(read_header(smaller, name, 1))[:, :, 0]
        assert read.dtype == stored.dtype
        assert np.abs(read - expected).max() <= (0.5 if kind != "float" else 1e-3)
    # nothing is encoded again that keeps its size
    assert Transcode(None, 90)(content, name) == content
    assert Transcode(64, 90)(content, name) == content
