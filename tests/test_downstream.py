"""After pretraining: recipes are the paper's, and images of any size, channels and classes can be classified."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from small_runs import ROOT, plan_for, raw_config, run
from unmask.config.checks import check
from unmask.encoder import Encoder
from unmask.exchange.load_into_model import resample_positions
from unmask.patches import sincos_2d
from unmask.stages.ledger import StageFolder
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows
from unmask.training.prepare import prepare
from unmask.training.run import Run, Stage

CROPS = {
    "crop": "random",
    "scale": (0.08, 1.0),
    "flip": True,
    "policy": None,
    "erasing": 0.0,
    "jitter": 0.0,
    "repeats": 1,
    "target_": None,
}
RANDAUGMENT = CROPS | {"policy": "rand-m9-mstd0.5"}
PORTS = CROPS | {"policy": "rand-m9-mstd0.5-inc1", "erasing": 0.25}
PLAIN = CROPS | {"crop": "none", "flip": False}
WHOLE = {"labels": None, "image_size": None, "min_lr": 0.0}
MIXED = {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0}
TABLE9 = (
    WHOLE
    | MIXED
    | {
        "optimizer": "adamw",
        "base_lr": 1e-3,
        "weight_decay": 0.05,
        "betas": (0.9, 0.999),
        "layer_decay": 0.75,
        "batch_size": 1024,
        "warmup_epochs": 5,
        "epochs": 100,
        "augment": RANDAUGMENT,
        "drop_path": 0.1,
        "ema": None,
        "pool": "cls",
    }
)
FINETUNE_MD = {
    "base_lr": 5e-4,
    "layer_decay": 0.65,
    "pool": "mean",
    "augment": PORTS,
    "min_lr": 1e-6,
}
TABLE10 = WHOLE | {
    "optimizer": "lars",
    "base_lr": 0.1,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "batch_size": 16384,
    "warmup_epochs": 10,
    "epochs": 90,
    "augment": CROPS,
    "pool": "cls",
}
TABLE11 = (
    WHOLE
    | MIXED
    | {
        "optimizer": "adamw",
        "base_lr": 1e-4,
        "weight_decay": 0.3,
        "betas": (0.9, 0.95),
        "layer_decay": 1.0,
        "batch_size": 4096,
        "warmup_epochs": 20,
        "epochs": 300,
        "augment": RANDAUGMENT,
        "drop_path": 0.1,
        "ema": 0.9999,
        "pool": "cls",
    }
)
FEW = TABLE9 | {
    "base_lr": 2.5e-3,
    "batch_size": 50,
    "layer_decay": 1.0,
    "augment": PLAIN,
    "drop_path": 0.0,
    "smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "pool": "mean",
}
PORT_L = (
    TABLE9
    | FINETUNE_MD
    | {
        "base_lr": 1e-3,
        "layer_decay": 0.75,
        "epochs": 50,
        "drop_path": 0.2,
    }
)
EXPECTED: dict[str, dict[str, Any]] = {
    "finetune=table9": TABLE9,
    "finetune=table9_l": TABLE9 | {"epochs": 50},
    "finetune=table9_h": TABLE9 | {"epochs": 50, "drop_path": 0.2},
    "finetune=port_b": TABLE9 | FINETUNE_MD,
    "finetune=port_l": PORT_L,
    "finetune=port_h": PORT_L | {"drop_path": 0.3},
    "finetune=few_labels": FEW,
    "linear_probe=table10": TABLE10,
    "linear_probe=port": TABLE10 | {"augment": CROPS | {"crop": "random_once"}},
    "linear_probe=small": (
        TABLE10
        | {
            "base_lr": 1.0,
            "batch_size": 256,
            "warmup_epochs": 4.5,
            "augment": PLAIN,
        }
    ),
    "scratch=table11": TABLE11,
    "scratch=table11_l": TABLE11 | {"epochs": 200, "drop_path": 0.2},
    "scratch=as_finetune": FEW,
    "partial_finetune=as_finetune": FEW | {"blocks": 1.0},
    "linear_probe=exact": {
        "optimizer": "lbfgs",
        "penalties": [1e-1, 1e-2, 1e-3, 1e-4, 1e-5],
        "holdout": 0.2,
        "tolerance": 1e-6,
        "max_iterations": 20000,
        "pool": "cls",
        "labels": None,
        "image_size": None,
    },
    "attentive_probe=small": (
        TABLE10
        | {
            "optimizer": "adamw",
            "base_lr": 1e-3,
            "weight_decay": 0.05,
            "batch_size": 256,
            "epochs": 20,
            "warmup_epochs": 1.0,
            "heads": 4,
            "augment": PLAIN,
            "pool": None,
        }
    ),
}


@pytest.mark.parametrize("choice", EXPECTED)
def test_every_recipe_is_what_it_cites(choice: str) -> None:
    """Tables 9, 10 and 11 and the port's FINETUNE.md, all of each recipe's keys, on images that may be mirrored."""
    stage = choice.split("=")[0]
    config = check(raw_config(choice, "data=cifar10", tiny=False))
    expected = {
        key: value
        for key, value in EXPECTED[choice].items()
        if value is not None or key != "pool"
    }
    assert getattr(config, stage).model_dump() == expected


def test_every_recipe_there_is_has_been_compared() -> None:
    stages = {choice.split("=")[0] for choice in EXPECTED}
    assert set(EXPECTED) == {
        f"{s}={path.stem}"
        for s in stages
        for path in (ROOT / "conf" / s).glob("*.yaml")
    }


@pytest.mark.parametrize(
    "choice", ["finetune=table9", "linear_probe=table10", "scratch=table11"]
)
def test_digits_are_not_mirrored_by_the_papers_recipes(choice: str) -> None:
    stage = choice.split("=")[0]
    assert not getattr(
        check(raw_config(choice, "data=mnist5k", tiny=False)), stage
    ).augment.flip


CLASSES = ("dark", "grey", "bright")


def odd_images(root: Path, channels: int, size: int = 16) -> Path:
    """Three classes of different brightness, with an image of 5000 x 20 pixels in train/ and of 20 x 5000 in val/."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for level, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                odd = level == 2 and i == 0
                shape = (
                    ((5000, 20) if split == "train" else (20, 5000))
                    if odd
                    else (size, size + i)
                )
                pixels = generator.integers(
                    0, 40, (*shape, channels), dtype=np.uint8
                ) + np.uint8(100 * level)
                path = root / split / name / f"{i}"
                if channels == 1:
                    Image.fromarray(pixels[..., 0]).save(path.with_suffix(".png"))
                else:
                    np.save(path.with_suffix(".npy"), pixels)
    return root


def folder_overrides(root: Path, *more: str) -> tuple[str, ...]:
    return (
        "data=image_folder",
        f"data.root={root}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.num_workers=0",
        f"runs_dir={root.parent / 'runs'}",
        "pretrain.epochs=1",
        "pretrain.batch_size=8",
        *more,
    )


def stage_folder(*arguments: str) -> Path:
    """The folder of the last stage."""
    plan = plan_for(*arguments)
    return StageFolder(plan.config.runs_dir, plan.stages[-1]).path


def final_weights(path: Path) -> dict[str, Tensor]:
    newest = checkpoints.newest(path / "checkpoints")
    assert newest is not None
    return checkpoints.load(newest)["state_dict"]


@pytest.mark.parametrize("channels", [1, 12])
def test_odd_images_of_any_number_of_channels_are_learned(
    channels: int, tmp_path: Path
) -> None:
    """1 and 12 channels, 3 classes, 5000 x 20 pixels, with crops, mixup and erasing."""
    policy = ["finetune.augment.policy=rand-m9-mstd0.5-inc1"] if channels == 1 else []
    arguments = folder_overrides(
        odd_images(tmp_path / "images", channels),
        f"data.channels={channels}",
        "stages=[finetune]",
        "finetune.epochs=12",
        "finetune.batch_size=8",
        "finetune.base_lr=0.3",
        "finetune.augment.crop=random",
        "finetune.augment.flip=true",
        "finetune.augment.erasing=0.25",
        "finetune.mixup=0.8",
        "finetune.cutmix=1.0",
        "finetune.drop_path=0.1",
        "augment=crop_random",
        "seed=1",
        *policy,
    )
    metrics = run(*arguments)[-1]["metrics"]
    with (stage_folder(*arguments) / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["true", *sorted(CLASSES)]
    assert [sum(map(int, row[1:])) for row in rows] == [4, 4, 4]
    weights = final_weights(stage_folder(*arguments))
    assert weights["model.features.encoder.patch_embed.weight"].shape == (
        16,
        16 * channels,
    )
    assert weights["model.head.weight"].shape == (3, 16)
    assert metrics["val/accuracy"] >= 75  # 33 by chance


def test_positions_are_interpolated_to_the_stages_size_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    root = tmp_path / "images"
    for i, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for j in range(10):
            Image.fromarray(np.full((32, 32, 3), 20 * j + i, dtype=np.uint8)).save(
                root / name / f"{j}.png"
            )
    arguments = folder_overrides(
        root, "data.image_size=32", "stages=[finetune]", "finetune.batch_size=8"
    )
    same, larger = plan_for(*arguments), plan_for(*arguments, "finetune.image_size=64")
    assert [spec.kind for spec in larger.stages] == ["pretrain", "finetune"]
    assert same.stages[0].fingerprint == larger.stages[0].fingerprint
    assert same.stages[1].fingerprint != larger.stages[1].fingerprint

    run(*arguments, "finetune.image_size=64", "finetune.base_lr=1e-3")
    pretrained = final_weights(
        StageFolder(larger.config.runs_dir, larger.stages[0]).path
    )
    before = {
        name.removeprefix("model.encoder."): value
        for name, value in pretrained.items()
        if "encoder." in name
    }
    folder = StageFolder(larger.config.runs_dir, larger.stages[1])
    stage = Stage(Run(larger, Console(file=io.StringIO())), larger.stages[1], folder)
    module, _ = prepare(stage)
    loaded = module.model.features.encoder.state_dict()
    assert loaded["pos_embed"].equal(
        resample_positions(before["pos_embed"], (8, 8), (16, 16), "port")
    )
    assert loaded["pos_embed"].shape == (1, 257, 16)
    # interpolated, not computed anew for the larger grid
    assert not loaded["pos_embed"].allclose(sincos_2d(16, (16, 16))[None], atol=1e-2)
    assert all(
        loaded[name].equal(before[name]) for name in before if name != "pos_embed"
    )
    after = final_weights(
        stage_folder(*arguments, "finetune.image_size=64", "finetune.base_lr=1e-3")
    )
    moved = (
        (after["model.features.encoder.pos_embed"] - loaded["pos_embed"]).abs().max()
    )
    assert 0 < moved < 0.1


def test_a_vit_b_of_224_pixels_loads_at_448() -> None:
    """The real size on memory that is reserved and not written, then one of its blocks on a real image."""
    geometry = {"patch_size": 16, "channels": 3, "width": 768, "depth": 12, "heads": 12}
    with torch.device("meta"):
        small, large = (
            Encoder((side, side), **geometry).to_empty(device="cpu")
            for side in (14, 28)
        )
    state = small.state_dict() | {"pos_embed": sincos_2d(768, (14, 14))[None]}
    state["pos_embed"] = resample_positions(
        state["pos_embed"], (14, 14), (28, 28), "port"
    )
    large.load_state_dict(state, assign=True)
    assert large.pos_embed.shape == (1, 785, 768)
    assert large.pos_embed[0, 0].equal(torch.zeros(768))  # the class token's is kept
    means = large.pos_embed[0, 1:].view(14, 2, 14, 2, 768).mean((1, 3)).flatten(0, 1)
    off = (means - sincos_2d(768, (14, 14))[1:]).view(14, 14, 768)[2:-2, 2:-2]
    assert off.abs().mean() < 0.05  # each old position lies amid its four new ones
    large.blocks = large.blocks[:1]
    for parameter in [
        *large.blocks.parameters(),
        *large.patch_embed.parameters(),
        *large.norm.parameters(),
    ]:
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        large.cls_token.zero_()
        tokens = large.unnormalised_tokens(torch.zeros(1, 3, 448, 448))
        assert tokens.equal(large.pos_embed)


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return (
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "pretrain.epochs=1",
        "controls=[]",
    )


def test_the_attentive_probe_learns_and_its_encoder_does_not_move(
    probes: tuple[str, ...],
) -> None:
    arguments = (
        *probes,
        "stages=[attentive_probe]",
        "attentive_probe.epochs=5",
        "attentive_probe.batch_size=200",
        "attentive_probe.base_lr=0.02",
        "attentive_probe.labels=1000",
    )
    metrics = run(*arguments)[-1]["metrics"]
    assert metrics["val/accuracy"] > 40  # 10 by chance
    losses = [
        row["train/loss"]
        for row in read_rows(stage_folder(*arguments) / "metrics.jsonl")
        if "train/loss" in row
    ]
    assert losses[-1] < 0.8 * losses[0]
    plan = plan_for(*arguments)
    before, after = (
        final_weights(StageFolder(plan.config.runs_dir, spec).path)
        for spec in plan.stages
    )
    names = [
        name.removeprefix("model.encoder.")
        for name in before
        if name.startswith("model.encoder.")
    ]
    assert len(names) > 10
    assert all(
        before[f"model.encoder.{n}"].equal(after[f"model.features.encoder.{n}"])
        for n in names
    )
    rates = {
        row["part"]: row
        for row in json.loads((stage_folder(*arguments) / "rates.json").read_text())
    }
    assert rates["block 1"]["trained"] == rates["embedding"]["trained"] == 0
    assert rates["pooling"]["trained"] == rates["pooling"]["parameters"] > 0


def test_the_ports_linear_probe_learns_on_single_try_crops(
    probes: tuple[str, ...],
) -> None:
    """Its recipe with a batch for 1,000 images; its first losses are not those of Table 10's crops."""
    shared = (
        *probes,
        "stages=[linear_probe]",
        "linear_probe.batch_size=200",
        "linear_probe.base_lr=100",
        "linear_probe.labels=1000",
        "linear_probe.epochs=8",
        "linear_probe.warmup_epochs=1",
        "linear_probe.augment.scale=[0.7,1]",
    )
    traces = {}
    for name in ("port", "table10"):
        arguments = (f"linear_probe={name}", *shared)
        metrics = run(*arguments)[-1]["metrics"]
        assert metrics["val/accuracy"] > 16, name  # 10 by chance, give or take 1
        traces[name] = [
            row["train/loss"]
            for row in read_rows(stage_folder(*arguments) / "metrics.jsonl")
            if "train/loss" in row
        ]
    assert traces["port"] != traces["table10"]


def test_micro_batches_do_not_divide_images_that_are_mixed(
    probes: tuple[str, ...],
) -> None:
    """26 images in micro-batches of at most 20 would be two of 13, and parts of 2 are mixed."""
    arguments = (
        *probes,
        "stages=[scratch]",
        "labels=26",
        "finetune.batch_size=48",
        "finetune.mixup=0.8",
        "trainer.micro_batch=16",
        "finetune.epochs=1",
    )
    assert run(*arguments)[-1]["metrics"]["batch_size"] == 26
    newest = checkpoints.newest(stage_folder(*arguments) / "checkpoints")
    assert newest is not None
    assert checkpoints.load(newest)["unmask"]["accumulate"] == 13


def test_without_mixing_micro_batches_are_as_few_as_fit(
    probes: tuple[str, ...],
) -> None:
    arguments = (
        *probes,
        "stages=[scratch]",
        "labels=26",
        "finetune.batch_size=40",
        "trainer.micro_batch=20",
        "finetune.epochs=1",
    )
    run(*arguments)
    newest = checkpoints.newest(stage_folder(*arguments) / "checkpoints")
    assert newest is not None
    assert checkpoints.load(newest)["unmask"]["accumulate"] == 2
