"""Repeated augmentation and images on the device, from the config to a finished stage."""

from pathlib import Path

import pytest
import torch

from small_runs import image_folder, raw_config, run
from unmask.commands.bench.in_memory import in_memory_contestants
from unmask.config.checks import ConfigError, check
from unmask.config.datasets import DatasetSize
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.in_memory import InMemory
from unmask.stages.sizes import count_images, step_counts

SMALL = (
    "data=image_folder",
    "data.image_size=16",
    "data.patch_size=4",
    "stages=[pretrain]",
    "pretrain.batch_size=8",
    "augment=crop_padded",
    "watch.times=1",
)


def test_an_epoch_with_repeats_has_that_many_times_the_steps(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")  # 18 images to train on
    common = (
        *SMALL,
        f"data.root={root}",
        f"runs_dir={tmp_path / 'runs'}",
        "data.in_memory=false",
        "data.num_workers=0",
    )
    (once,), (twice,) = run(*common), run(*common, "augment.repeats=2")
    assert once["metrics"]["steps"] == 3 * (18 // 8)
    assert twice["metrics"]["steps"] == 3 * (18 // 4)
    assert once["fingerprint"] != twice["fingerprint"]
    config = check(raw_config(*common, "augment.repeats=2"))
    assert step_counts(config, "pretrain", 18) == (12, 4)
    assert count_images(config, "pretrain", DatasetSize(18, 2, 2)).trained == 12 * 8


def test_images_on_the_device_change_no_bit_of_a_run(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    results = [
        run(
            *SMALL,
            f"data.root={root}",
            f"runs_dir={tmp_path / place}",
            f"data.in_memory={place}",
        )[0]
        for place in ("true", "device")
    ]
    assert results[0]["fingerprint"] == results[1]["fingerprint"]
    assert results[0]["metrics"]["val/loss"] == results[1]["metrics"]["val/loss"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "augment.repeats=3",
            "augment.repeats = 3: pretrain.batch_size=1000 is not a multiple of it",
        ),
        (
            "linear_probe.augment.repeats=2",
            "linear_probe.augment.repeats = 2: linear_probe.augment changes nothing",
        ),
        (
            (
                "finetune.augment.flip=true finetune.augment.repeats=16"
                " finetune.mixup=0.8 finetune.batch_size=64"
            ),
            (
                "finetune.augment.repeats = 16: images would be mixed with views of"
                " their own; pick a divisor of 8"
            ),
        ),
        (
            "data.decode=nvjpeg",
            "data.decode = nvjpeg: trainer.accelerator=cpu has no GPU to decode on",
        ),
        (
            "data.decode=nvjpeg trainer=auto",
            "data.decode = nvjpeg: data=mnist5k is decoded once into memory",
        ),
        (
            "augment.repeats=4 trainer.micro_batch=2",
            "trainer.micro_batch = 2: pretrain keeps 4 views together",
        ),
        ("data.in_memory=false", "data.in_memory=false: mnist5k is held in memory"),
        (
            (
                "data=image_folder data.root=images data.image_size=32"
                " data.decode=scaled augment.repeats=2 stages=[pretrain]"
            ),
            (
                "data.decode = scaled: images that are seen in several views are"
                " decoded whole; use data.decode=fast"
            ),
        ),
        (
            "data.in_memory=device augment.policy=rand-m5-n1 stages=[pretrain]",
            "data.in_memory = device: each stage changes single images",
        ),
    ],
)
def test_impossible_combinations_are_refused(overrides: str, message: str) -> None:
    stages = (
        [] if "stages" in overrides else ["stages=[pretrain,linear_probe,finetune]"]
    )
    with pytest.raises(ConfigError) as refusal:
        check(raw_config(*stages, *overrides.split()))
    assert message in str(refusal.value)


def test_each_contestant_of_the_loader_benchmark_makes_its_batches() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    image_format = ImageFormat((16, 16), (0.5,) * 3, (0.25,) * 3)
    contestants = in_memory_contestants(
        InMemory(images, torch.zeros(40, dtype=torch.long)), image_format
    )
    assert len(contestants) == 5
    for make, count in contestants.values():
        make(1)
        assert count == 40
