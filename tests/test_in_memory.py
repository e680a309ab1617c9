"""The embedded digits are split cleanly; CIFAR keeps its pixels and explains what to do offline."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from unmask.data.loading.in_memory import InMemory, load_arrays


@pytest.fixture(scope="module")
def digits() -> tuple[InMemory, InMemory]:
    return load_arrays("mnist5k")


def test_digits_are_split_into_4000_and_1000_with_as_many_of_each_class(
    digits: tuple[InMemory, InMemory],
) -> None:
    train, test = digits
    assert train.images_NCHW.shape == (4_000, 1, 28, 28)
    assert torch.bincount(train.labels_N).tolist() == [400] * 10
    assert torch.bincount(test.labels_N).tolist() == [100] * 10


def test_no_test_digit_is_also_a_training_digit(
    digits: tuple[InMemory, InMemory],
) -> None:
    train, test = (
        {image.numpy().tobytes() for image in split.images_NCHW} for split in digits
    )
    assert not train & test


def test_digits_have_the_statistics_of_mnist(digits: tuple[InMemory, InMemory]) -> None:
    """A wrong scale or a shifted column would show."""
    pixels = digits[0].images_NCHW.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=0.003)
    assert pixels.std().item() == pytest.approx(0.3081, abs=0.003)
    assert pixels[:, :, :2].mean() < 0.001


@pytest.mark.parametrize(
    ("name", "archive"),
    [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")],
)
@pytest.mark.parametrize("download", [True, False])
def test_cifar_without_a_network_lists_the_offline_choices(
    name: Any,
    archive: str,
    download: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(_: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    message = (
        rf"data={name}: it is not in data.root={tmp_path} .*put {archive}.tar.gz into"
        r" .*data.root.*data=image_folder"
    )
    with pytest.raises(ValueError, match=message):
        load_arrays(name, tmp_path, download)


def test_two_runs_that_miss_cifar_download_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first: two writers would spoil the archive."""
    downloads: list[Path] = []

    def fake(root: Path, train: bool, download: bool) -> SimpleNamespace:
        if not (root / "files").exists():
            if not download:
                raise RuntimeError("Dataset not found or corrupted.")
            downloads.append(root)
            time.sleep(0.2)
            (root / "files").touch()
        return SimpleNamespace(data=np.zeros((2, 32, 32, 3), np.uint8), targets=[3, 7])

    fake.__name__ = "CIFAR10"
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda _: load_arrays("cifar10", tmp_path / "data", download=True),
                range(2),
            )
        )
    assert downloads == [tmp_path / "data"]


def test_cifar_pixels_keep_their_position_and_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

    def fake(root: object, train: object, download: object) -> SimpleNamespace:
        return SimpleNamespace(data=data, targets=[3, 7])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
    train, _ = load_arrays("cifar10", tmp_path, download=False)
    assert train.images_NCHW[1, 2, 5, 9] == data[1, 5, 9, 2]
    assert train.labels_N.tolist() == [3, 7]
