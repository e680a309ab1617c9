"""The loader benchmark measures each way of reading the same images, and says what limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shards import run_prepare
from small_runs import raw_config
from unmask.commands.bench import loader_tables, whole_loaders
from unmask.commands.bench.arguments import Bench, unused_keys
from unmask.commands.bench.loader import (
    LoadingCosts,
    measure_loading,
    training_images,
)
from unmask.commands.bench.loader_parts import FirstRead
from unmask.commands.bench.loader_tables import (
    list_bad_images,
    loading_advice,
    loading_tables,
    path_in_training,
)
from unmask.commands.bench.measure import Contestant, time_in_turn
from unmask.commands.bench.reading_paths import OFFICIAL
from unmask.commands.bench.whole_loaders import time_loaders
from unmask.config.checks import ConfigError, validate
from unmask.config.data import Data
from unmask.data.loading.batch import Batch, ImageFormat
from unmask.data.loading.folders import StoredImages, splits_from_listing
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import LoaderSettings, normalise
from unmask.data.sources import list_source

IMAGE_FORMAT = ImageFormat((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SPEC: dict[str, Any] = {"seconds": 0.01, "batch": 4, "device": "cpu", "threads": None}


@pytest.fixture
def files(tmp_path: Path) -> StoredImages:
    for i in range(20):
        size = (60 + i, 50 + 2 * i, 3) if i else (60, 50)
        pixels = np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.jpg")
    listing = list_source("image_folder", tmp_path)
    split, _ = splits_from_listing(listing, 3, IMAGE_FORMAT.shape, False)
    assert isinstance(split, StoredImages)
    return split


def test_each_way_and_each_step_of_reading_files_is_measured(
    files: StoredImages,
) -> None:
    costs = measure_loading(files, IMAGE_FORMAT, LoaderSettings(0, threads=2), SPEC)
    assert next(iter(costs.paths)) == OFFICIAL
    ways = " ".join(costs.paths)
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
    assert all(len(taken) >= 3 for taken in costs.paths.values())
    assert list(costs.parts)[:7] == [
        "read",
        "header",
        "crops",
        "decode",
        "resize",
        "mirror",
        "collate",
    ]
    assert min(costs.loaders.values()) > 0
    assert costs.spread == (0, 2)
    assert "of 18 files" in costs.images_description
    titles = [
        column.header for table in loading_tables(costs) for column in table.columns
    ]
    assert "x official" in titles


def test_images_that_a_gpu_decodes_count_once_they_are_decoded(
    files: StoredImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the CPU is the device; counting undecoded bytes would be an enormous pace."""
    batches: list[Batch] = []

    def record(batch: Batch, image_format: ImageFormat) -> Batch:
        batches.append(normalise(batch, image_format))
        return batches[-1]

    monkeypatch.setattr(whole_loaders, "normalise", record)
    paces = time_loaders(
        files,
        IMAGE_FORMAT,
        LoaderSettings(0),
        SPEC,
        list(range(18)),
        1,
        torch.device("cpu"),
    )
    assert list(paces) == ["unmask, fast", "unmask, nvjpeg", OFFICIAL]
    assert len(batches) == 2 * 8
    assert {tuple(batch.images_BCHW.shape) for batch in batches} == {(4, 3, 32, 32)}


def test_images_in_memory_are_measured_beside_torchvision() -> None:
    split = InMemory(
        torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8),
        torch.zeros(64, dtype=torch.long),
    )
    costs = measure_loading(split, IMAGE_FORMAT, LoaderSettings(), SPEC)
    assert {
        OFFICIAL,
        "random resized crop",
        "torchvision, padded crop",
        "padded crop",
    } <= set(costs.paths)
    assert costs.spread == (0, 1)
    assert "there is nothing to set" in loading_advice(costs, "auto", 10.0, "this CPU")


def test_contestants_take_turns_after_a_round_that_warms_up() -> None:
    turns: list[str] = []
    taken = time_in_turn(
        {
            name: Contestant(lambda turn, name=name: turns.append(name), 2)
            for name in "ab"
        },
        rounds=3,
    )
    assert turns == ["a", "b"] * 4
    assert [len(each) for each in taken.values()] == [3, 3]


def costs_with(seconds: float, stored: float = 0.0001) -> LoadingCosts:
    paths = {
        OFFICIAL: [0.003],
        "fast, simplejpeg": [seconds],
        "fast, JPEGs stored": [2 * stored],
        "pixels stored": [stored],
    }
    return LoadingCosts(
        "10 of 10 files",
        paths,
        {"read": 0.1 * seconds, "decode": 0.9 * seconds},
        {},
        (1, 1),
    )


def test_the_advice_names_what_limits_and_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader_tables, "available_cores", lambda: 9)
    slow_model = loading_advice(costs_with(0.001), "auto", 2000.0, "the GPU")
    assert "1,000 images/s here (fast, simplejpeg; slowest step: decode)." in slow_model
    assert "`make native`" in slow_model
    assert "2,000 on the GPU: 3 cores" in slow_model
    assert slow_model.endswith(
        "The model is the limit: data.num_workers=1 data.threads=3 data.decode=auto."
    )
    quick_model = loading_advice(costs_with(0.001), "fast", 20_000.0, "the GPU")
    assert (
        "Reading is the limit; 8 cores are free: data.num_workers=2 data.threads=4"
        " data.decode=auto" in quick_model
    )
    assert quick_model.endswith("src/prepare.py with short_side=256 is enough.")
    assert loading_advice(costs_with(0.001, 0.0003), "fast", 20_000.0, "it").endswith(
        "short_side=256 format=raw is enough."
    )
    assert loading_advice(costs_with(0.001, 0.001), "fast", 20_000.0, "it").endswith(
        "helps most, and is not enough."
    )
    assert path_in_training(costs_with(0.001, 0.0003), "nvjpeg") == path_in_training(
        costs_with(0.001, 0.0003), "fast"
    )


def test_images_that_the_official_recipe_cannot_read_are_refused(
    files: StoredImages,
) -> None:
    with pytest.raises(
        ValueError,
        match=r"data\.channels=5.*1, 3 or 4",
    ):
        measure_loading(
            replace(files, channels=5), IMAGE_FORMAT, LoaderSettings(), SPEC
        )


def test_files_that_cannot_be_read_are_left_out_and_named(
    files: StoredImages, tmp_path: Path
) -> None:
    (tmp_path / "03.jpg").write_bytes(b"no image")
    (tmp_path / "07.jpg").unlink()
    costs = measure_loading(files, IMAGE_FORMAT, LoaderSettings(0, threads=2), SPEC)
    assert costs.first_read
    assert len(costs.first_read.readable_ids) == 16
    lines = list(list_bad_images(costs))
    assert len(lines) == 2
    assert "left out: " in lines[0]
    assert (
        "03.jpg cannot be read as an image (it is no image of a known format)"
        in lines[0]
    )
    assert "07.jpg cannot be read as an image (No such file or directory)" in lines[1]
    assert "16 of 18 files" in costs.images_description
    (tmp_path / "08.jpg").unlink()
    with pytest.raises(ValueError, match=r"3 of 18 images cannot be read; .*03.jpg"):
        measure_loading(files, IMAGE_FORMAT, LoaderSettings(), SPEC)


def test_a_decompression_bomb_ends_neither_recipe(
    files: StoredImages, tmp_path: Path
) -> None:
    """Pillow raises an error that is no OSError, and only in the official recipe."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "05.jpg", "PNG")
    costs = measure_loading(files, IMAGE_FORMAT, LoaderSettings(0, threads=1), SPEC)
    assert ["178,956,970" in line for line in list_bad_images(costs)] == [True]
    assert min(costs.loaders.values()) > 0


def test_the_advice_names_a_slow_disk() -> None:
    costs = costs_with(0.001)._replace(
        first_read=FirstRead(list(range(20)), [], 50.0, 110_000.0)
    )
    message = loading_advice(costs, "auto", 300.0, "the GPU")
    assert (
        "The disk is the limit: it gave 50 files/s; put the files on a faster"
        in message
    )
    assert "The disk" not in loading_advice(costs, "auto", 40.0, "the GPU")


@pytest.mark.parametrize(
    ("subject", "key", "remedy"),
    [
        ("loader", "image_size", "set data.image_size"),
        ("loader", "rounds", "set seconds"),
        ("step", "seconds", "rounds counts"),
        ("guards", "source", "only loader"),
    ],
)
def test_keys_that_would_change_nothing_are_refused(
    subject: str, key: str, remedy: str
) -> None:
    assert unused_keys(subject, ["batch", key]).startswith(
        f"{key}: {subject} does not use it; {remedy}"
    )
    assert not unused_keys(subject, ["batch", "model", "device"])


def test_shards_are_measured_like_folders(
    files: StoredImages, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Prepared tars hold the same files, and are listed by the same key as for training."""
    target = tmp_path_factory.mktemp("tars")
    run_prepare(tmp_path, target, "webdataset")
    raw = raw_config(
        "data=image_folder", f"data.root={target}", "data.image_size=32", tiny=False
    )["data"]
    data = Data.model_validate(raw)
    split = training_images(data, "webdataset")
    assert isinstance(split, StoredImages)
    assert [split.store.read(i) for i in range(18)] == [
        files.store.read(i) for i in range(18)
    ]


def test_too_few_images_are_refused(files: StoredImages) -> None:
    few = InMemory(
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)
    )
    with pytest.raises(
        ValueError,
        match=r"data\.root holds 3 .*at least 16",
    ):
        measure_loading(few, IMAGE_FORMAT, LoaderSettings(), SPEC)


@pytest.mark.parametrize(
    ("typed", "message"),
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
def test_images_belong_to_loader_alone(typed: dict[str, Any], message: str) -> None:
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
        "precisions": ["32-true"],
        "peers": [],
        "official": None,
        "tricks": False,
        "out": None,
        "minutes": 25.0,
        "smallest": False,
    }
    with pytest.raises(ConfigError, match=message):
        validate(Bench, bench | typed)
    assert validate(Bench, bench).data
