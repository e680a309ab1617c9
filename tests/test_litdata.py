"""Chunks of LitData are read whoever wrote them, if they hold encoded images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from litdata.streaming.writer import BinaryWriter
from PIL import Image

import shards
from test_shard_labels import WORDS, found, pixels, png
from unmask.commands.prepare.source import detect_container
from unmask.data.containers.source import list_container
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


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            lambda k: {"image": Image.fromarray(pixels(k)), "class": k},
            "holds items of pil",
        ),
        (lambda k: {"image": pixels(k), "class": k}, "holds items of numpy, int"),
    ],
)
def test_pixels_in_chunks_are_refused(
    item: Callable[[int], Any], message: str, tmp_path: Path
) -> None:
    write_chunks(tmp_path / "chunks", item, range(4))
    with pytest.raises(ValueError, match=rf"{message}.*; make it again with images as"):
        list_container("litdata", str(tmp_path / "chunks"), 0.3)


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
