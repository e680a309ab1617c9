"""The bench of reading measures each way on the same images, and says what limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards import prepared
from small_runs import raw_config
from unmask.commands.bench import loader, loader_tables
from unmask.commands.bench.loader import (
    OFFICIAL,
    Found,
    interleaved,
    measured,
    training_images,
    whole_loaders,
)
from unmask.commands.bench.loader_parts import Sample
from unmask.commands.bench.loader_tables import advice, tables, unread, used_path
from unmask.config.arguments import Bench, arguments, unused
from unmask.config.checks import ConfigError
from unmask.config.schema import Data
from unmask.data.loading.batch import Batch, Format, normalised
from unmask.data.loading.folders import Files, folder_splits
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import Loading
from unmask.data.sources import list_source

FORM = Format((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SPEC: dict[str, Any] = {"seconds": 0.01, "batch": 4, "device": "cpu", "threads": None}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for i in range(20):
        size = (60 + i, 50 + 2 * i, 3) if i else (60, 50)
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.jpg")
    split = folder_splits(list_source("image_folder", tmp_path), 3, FORM.shape, False)[
        0
    ]
    assert isinstance(split, Files)
    return split


def test_every_way_and_step_of_reading_files_is_measured(files: Files) -> None:
    found = measured(files, FORM, Loading(0, threads=2), SPEC)
    assert next(iter(found.paths)) == OFFICIAL
    ways = " ".join(found.paths)
    assert all(
        way in ways
        for way in (
            "reference",
            "fast, simplejpeg",
            "scaled",
            "JPEGs stored",
            "pixels stored",
        )
    )
    assert all(len(taken) >= 3 for taken in found.paths.values())
    assert list(found.parts)[:6] == [
        "read",
        "header",
        "crops",
        "decode",
        "resize",
        "collate",
    ]
    assert min(found.loaders.values()) > 0
    assert found.spread == (0, 2)
    assert "of 18 files" in found.images
    titles = [column.header for table in tables(found) for column in table.columns]
    assert "x official" in titles


def test_what_a_gpu_decodes_is_decoded_before_it_counts(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU as the device: a batch of bytes alone would be an enormous pace."""
    seen: list[Batch] = []
    monkeypatch.setattr(
        loader, "normalised", lambda *given: seen.append(normalised(*given)) or seen[-1]
    )
    found = whole_loaders(
        files, FORM, Loading(0), SPEC, list(range(18)), 1, torch.device("cpu")
    )
    assert list(found) == ["unmask, fast", "unmask, nvjpeg", OFFICIAL]
    assert len(seen) == 2 * 8
    assert {(tuple(batch.images_BCHW.shape), batch.packed) for batch in seen} == {
        ((4, 3, 32, 32), None)
    }


def test_images_in_memory_are_measured_beside_torchvision() -> None:
    held = InMemory(
        torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8),
        torch.zeros(64, dtype=torch.long),
    )
    found = measured(held, FORM, Loading(), SPEC)
    assert {
        OFFICIAL,
        "random resized crop",
        "torchvision, padded crop",
        "padded crop",
    } <= set(found.paths)
    assert found.spread == (0, 1)
    assert "there is nothing to set" in advice(found, "auto", 10.0, "this CPU")


def test_contestants_take_turns_after_a_round_that_warms_up() -> None:
    turns: list[str] = []
    taken = interleaved(
        {name: (lambda turn, name=name: turns.append(name), 2) for name in "ab"}, 0.0
    )
    assert turns == ["a", "b"] * 4
    assert [len(each) for each in taken.values()] == [3, 3]


def found_with(seconds: float, stored: float = 0.0001) -> Found:
    paths = {
        OFFICIAL: [0.003],
        "fast, simplejpeg": [seconds],
        "fast, JPEGs stored": [2 * stored],
        "pixels stored": [stored],
    }
    return Found(
        "10 of 10 files",
        paths,
        {"read": 0.1 * seconds, "decode": 0.9 * seconds},
        {},
        (1, 1),
    )


def test_what_limits_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_tables, "available_cores", lambda: 9)
    slow_model = advice(found_with(0.001), "auto", 2000.0, "the GPU")
    assert (
        slow_model
        == "A core reads 1,000 images/s here (fast, simplejpeg), mostly to decode. What"
        " `make native` builds reads JPEGs about 1.5 times as fast. The model takes"
        " 2,000 on the GPU: 3 cores to read them. The model is the limit:"
        " data.num_workers=1 data.threads=3 data.decode=auto."
    )
    quick_model = advice(found_with(0.001), "fast", 20_000.0, "the GPU")
    assert (
        "Reading is the limit, 8 are free: data.num_workers=2 data.threads=4"
        " data.decode=auto" in quick_model
    )
    assert quick_model.endswith("src/prepare.py with short_side=256 is enough.")
    assert advice(found_with(0.001, 0.0003), "fast", 20_000.0, "it").endswith(
        "short_side=256 format=raw is enough."
    )
    assert advice(found_with(0.001, 0.001), "fast", 20_000.0, "it").endswith(
        "helps most, and is not enough."
    )
    assert used_path(found_with(0.001, 0.0003), "nvjpeg") == used_path(
        found_with(0.001, 0.0003), "fast"
    )


def test_images_that_the_official_recipe_does_not_know_are_told(files: Files) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"data.channels=5: the official recipe reads images of 1, 3 or 4 channels"
        ),
    ):
        measured(replace(files, channels=5), FORM, Loading(), SPEC)


def test_files_that_cannot_be_read_are_left_out_and_named(
    files: Files, tmp_path: Path
) -> None:
    (tmp_path / "03.jpg").write_bytes(b"no image")
    (tmp_path / "07.jpg").unlink()
    found = measured(files, FORM, Loading(0, threads=2), SPEC)
    assert found.first
    assert len(found.first.ids) == 16
    said = list(unread(found))
    assert len(said) == 2
    assert "left out: " in said[0]
    assert (
        "03.jpg cannot be read as an image (it is no image of a known format)"
        in said[0]
    )
    assert "07.jpg cannot be read as an image (No such file or directory)" in said[1]
    assert "16 of 18 files" in found.images
    (tmp_path / "08.jpg").unlink()
    with pytest.raises(ValueError, match=r"3 of 18 images cannot be read; .*03.jpg"):
        measured(files, FORM, Loading(), SPEC)


def test_a_decompression_bomb_ends_neither_recipe(files: Files, tmp_path: Path) -> None:
    """Pillow's word for it is no OSError, and comes out of the official recipe alone."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "05.jpg", "PNG")
    found = measured(files, FORM, Loading(0, threads=1), SPEC)
    assert ["178,956,970" in line for line in unread(found)] == [True]
    assert min(found.loaders.values()) > 0


def test_a_slow_disk_is_what_limits() -> None:
    found = found_with(0.001)._replace(
        first=Sample(list(range(20)), [], 50.0, 110_000.0)
    )
    said = advice(found, "auto", 300.0, "the GPU")
    assert (
        "The disk is the limit: it gave 50 files/s; put them on a quicker one" in said
    )
    assert "The disk" not in advice(found, "auto", 40.0, "the GPU")


@pytest.mark.parametrize(
    ("subject", "key", "remedy"),
    [
        ("loader", "image_size", "set data.image_size"),
        ("loader", "rounds", "set seconds"),
        ("step", "seconds", "rounds counts"),
        ("guards", "source", "only loader"),
    ],
)
def test_what_would_change_nothing_is_told(subject: str, key: str, remedy: str) -> None:
    assert unused(subject, ["batch", key]).startswith(
        f"{key}: {subject} takes none; {remedy}"
    )
    assert not unused(subject, ["batch", "model", "device"])


def test_shards_are_measured_like_folders(
    files: Files, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Prepared tars hold the same files, and are listed by the same key as for training."""
    target = tmp_path_factory.mktemp("tars")
    prepared(tmp_path, target, "webdataset")
    raw = raw_config(
        "data=image_folder", f"data.root={target}", "data.image_size=32", tiny=False
    )["data"]
    data = Data.model_validate(raw)
    split = training_images(data, "webdataset")
    assert isinstance(split, Files)
    assert [split.store.read(i) for i in range(18)] == [
        files.store.read(i) for i in range(18)
    ]


def test_too_few_images_are_told(files: Files) -> None:
    few = InMemory(
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)
    )
    with pytest.raises(
        ValueError,
        match=r"data.root holds 3 training images; at least 16 are needed to measure",
    ):
        measured(few, FORM, Loading(), SPEC)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            {"subject": "loader", "data": None},
            (
                "data: loader needs images: add data=image_folder"
                " data.root=/path/to/images"
            ),
        ),
        (
            {"subject": "step"},
            "data=mnist5k: step reads no images; leave data out, or ask for loader",
        ),
        (
            {"source": "webdataset"},
            (
                "source = webdataset: data=mnist5k comes in no such container; set"
                " source=folder"
            ),
        ),
    ],
)
def test_images_belong_to_loader_alone(typed: dict[str, Any], said: str) -> None:
    raw = raw_config(tiny=False)
    bench = {
        "subject": "loader",
        "data": raw["data"],
        "model": raw["model"],
        "decoder": raw["decoder"],
        "batch": 1,
        "rounds": 1,
        "seconds": 1,
        "source": "folder",
        "threads": None,
        "image_size": 32,
        "patch_size": 4,
        "channels": 3,
        "mask_ratio": 0.75,
        "norm_pix": True,
        "device": "cpu",
    }
    with pytest.raises(ConfigError, match=said):
        arguments(Bench, bench | typed)
    assert arguments(Bench, bench).data
