"""Chunks of LitData are read whoever wrote them: encoded images and pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from litdata.streaming.writer import BinaryWriter
from PIL import Image

import shards
from test_shard_labels import WORDS, found, pixels, png
from unmask.commands.prepare.source import detect_container
from unmask.config.checks import ConfigError
from unmask.data.containers.source import list_container
from unmask.data.images.decoding import decode_values, read_header
from unmask.data.listing.listing import list_images


@pytest.fixture(autouse=True)
def separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_chunks(
    folder: Path, item: Callable[[int], Any], numbers: range, **options: Any
) -> None:
    """Write chunks of about four items, as litdata.optimize does in one worker."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = BinaryWriter(str(folder), chunk_bytes=1200, **options)
    for k, number in enumerate(numbers):
        writer[k] = item(number)
    writer.done()
    writer.merge()


ITEMS: dict[str, Callable[[int], Any]] = {
    "dict": lambda k: {"image": png(k), "class": k % 3},
    "words": lambda k: {"index": k, "label": WORDS[k % 3], "image": png(k)},
    "tuple": lambda k: (png(k), k % 3),
    "named": lambda k: {"img": png(k), "y": k % 3, "filename": f"x{k}.png"},
}


@pytest.mark.parametrize("form", ITEMS)
def test_items_of_other_writers_are_read(form: str, tmp_path: Path) -> None:
    root = tmp_path / "chunks"
    write_chunks(root / "train", ITEMS[form], range(12))
    write_chunks(root / "val", ITEMS[form], range(12, 18))
    assert len(list((root / "train").glob("*.bin"))) > 2
    assert detect_container(str(root)) == "litdata"
    listing = list_container("litdata", str(root), 0.1)
    assert (len(listing.train), len(listing.val)) == (12, 6)
    words = {k: WORDS[k % 3] if form == "words" else str(k % 3) for k in range(18)}
    assert found(listing) == words
    name = next(iter(listing.train))[0]
    assert name == (
        "train/x0.png" if form == "named" else "train/chunk-0-0-00000000.png"
    )


def test_jpeg_files_of_litdata_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels(0)).save(path)
    write_chunks(
        tmp_path / "chunks", lambda k: {"image": Image.open(path), "class": k}, range(4)
    )
    listing = list_container("litdata", str(tmp_path / "chunks"), 0.3)
    assert listing.stores is not None
    assert listing.stores[0].read(0) == path.read_bytes()


def deep(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 65536, (6, 5, 4), dtype=np.uint16)


def floats(k: int) -> np.ndarray:
    return np.random.default_rng(k).random((3, 7, 6), dtype=np.float32)


def grey(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (6, 5), dtype=np.uint8)


PIXELS: dict[str, tuple[Callable[[int], Any], Callable[[int], np.ndarray]]] = {
    "PIL": (lambda k: Image.fromarray(pixels(k)), pixels),
    "grey PIL": (lambda k: Image.fromarray(grey(k)), grey),
    "16 bits": (deep, deep),
    "grey": (grey, grey),
    "floats, channels first": (floats, lambda k: np.moveaxis(floats(k), 0, 2)),
    "tensor": (lambda k: torch.from_numpy(floats(k)), lambda k: floats(k)),
}


@pytest.mark.parametrize("form", PIXELS)
def test_pixels_in_chunks_have_numpys_values(form: str, tmp_path: Path) -> None:
    make, expected = PIXELS[form]
    root = tmp_path / "chunks"
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        write_chunks(root / split, lambda k: {"image": make(k), "class": k}, numbers)
    listing = list_container("litdata", str(root), 0.1)
    assert listing.stores is not None
    # the second time from the index
    for again in (listing, list_container("litdata", str(root), 0.1)):
        assert again.stores is not None
        for split, store in zip((again.train, again.val), again.stores, strict=True):
            for i, label in enumerate(split.labels.tolist()):
                array = expected(int(again.classes[label]))
                array_HWC = array if array.ndim == 3 else array[:, :, None]
                channels = 3 if 3 in array_HWC.shape else array_HWC.shape[2]
                image = read_header(store.read(i), store.name(i), channels)
                values = decode_values(image)
                if array_HWC.shape[2] != channels:
                    array_HWC = np.moveaxis(array_HWC, 0, 2)
                assert values.dtype == array_HWC.dtype
                np.testing.assert_array_equal(values, array_HWC)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (lambda k: torch.tensor(k % 3), lambda k: str(k % 3)),
        (lambda k: torch.tensor([k % 3], dtype=torch.int16), lambda k: str(k % 3)),
        (lambda k: np.array([k % 3]), lambda k: str(k % 3)),
        (lambda k: {"meta": {"class": WORDS[k % 3]}}, lambda k: WORDS[k % 3]),
        (lambda k: torch.tensor(0.5), lambda k: None),
    ],
)
def test_labels_in_tensors_and_below_keys_are_read(
    label: Callable[[int], Any], expected: Callable[[int], str | None], tmp_path: Path
) -> None:
    def item(k: int) -> dict[str, Any]:
        stored = label(k)
        return {
            "image": Image.fromarray(pixels(k)),
            **(stored if isinstance(stored, dict) else {"label": stored}),
        }

    write_chunks(tmp_path / "chunks", item, range(12))
    listing = list_container("litdata", str(tmp_path / "chunks"), 0.3)
    names = dict((*listing.train, *listing.val))
    for k, name in enumerate(sorted(names)):
        found_label = listing.classes[names[name]] if listing.classes else None
        assert found_label == expected(k)


def test_pixels_of_unknown_modes_are_refused(tmp_path: Path) -> None:
    def item(k: int) -> dict[str, Any]:
        return {"image": Image.fromarray(pixels(k)).convert("CMYK"), "class": k}

    write_chunks(tmp_path / "chunks", item, range(4))
    with pytest.raises(ValueError, match="PIL images of mode CMYK; save them as RGB"):
        list_container("litdata", str(tmp_path / "chunks"), 0.3)
    write_chunks(tmp_path / "texts", lambda k: {"text": "x", "class": k}, range(4))
    with pytest.raises(ValueError, match="holds items of str, int; make it again"):
        list_container("litdata", str(tmp_path / "texts"), 0.3)


def test_pixels_are_prepared_as_pixels(tmp_path: Path) -> None:
    root = tmp_path / "chunks"
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        write_chunks(
            root / split, lambda k: {"image": deep(k), "class": k % 2}, numbers
        )
    with pytest.raises(ConfigError, match="raw pixels; add quality=90"):
        shards.run_prepare(root, tmp_path / "tars", "webdataset")
    shards.run_prepare(root, tmp_path / "raw", "raw", channels=4)
    before = list_container("litdata", str(root), 0.1)
    after = list_container("raw", str(tmp_path / "raw"), 0.1)
    assert before.stores is not None
    assert after.stores is not None
    assert after.train.labels.tolist() == before.train.labels.tolist()
    for i in range(8):
        np.testing.assert_array_equal(after.stores[0].read(i), before.stores[0].read(i))


def test_damaged_chunks_and_indexes_are_named(tmp_path: Path) -> None:
    root = tmp_path / "chunks"
    write_chunks(root, ITEMS["dict"], range(12))
    chunk = root / "chunk-0-1.bin"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"chunk-0-1\.bin is not a complete chunk"):
        list_container("litdata", str(root), 0.3)
    chunk.unlink()
    with pytest.raises(ValueError, match=r"chunk-0-1\.bin is missing"):
        list_container("litdata", str(root), 0.3)
    (root / "index.json").unlink()
    with pytest.raises(
        ValueError, match=r"index\.json cannot be read .* copy it again"
    ):
        list_container("litdata", str(root), 0.3)


def test_chunks_of_ours_are_read_without_their_index(tmp_path: Path) -> None:
    folder = shards.write_imagenet(tmp_path / "folder", per_class=3)
    shards.run_prepare(folder, tmp_path / "chunks", "litdata")
    (tmp_path / "chunks" / "unmask.index").unlink()
    listing = list_container("litdata", str(tmp_path / "chunks"), 0.1)
    assert listing.identity == list_images(folder).identity


def test_names_that_are_files_here_are_stored_as_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LitData would pickle them, and no reader of ours opens pickles."""
    folder = shards.write_imagenet(tmp_path / "folder", per_class=3)
    monkeypatch.chdir(folder)
    shards.run_prepare(Path(), tmp_path / "chunks", "litdata")
    listing = list_container("litdata", str(tmp_path / "chunks"), 0.1)
    assert listing.identity == list_images(folder).identity
