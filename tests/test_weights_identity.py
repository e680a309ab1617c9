"""Weights of others are identified by their content and measured in any layout."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from small_runs import load_weights, plan_for, run
from unmask.config.checks import ConfigError
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Layout
from unmask.exchange.write import write_weights
from unmask.stages.fingerprint import weights_identity
from unmask.stages.ledger import StageFolder
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read_rows

KNN = ("stages=[knn]", "knn.labels=500")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return a pretraining's folder, and its kNN accuracy."""
    runs = tmp_path_factory.mktemp("runs")
    accuracy = run(f"runs_dir={runs}", *KNN)[-1]["metrics"]["val/accuracy"]
    (folder,) = runs.glob("pretrain/*")
    return folder, accuracy


@pytest.mark.parametrize("layout", list(get_args(Layout)))
def test_every_layout_measures_the_same(
    layout: Layout, pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    folder, accuracy = pretrained
    if layout == "checkpoint":
        weights = folder
    else:
        names = {"hf": "folder", "safetensors": "file.safetensors"}
        weights = tmp_path / names.get(layout, "file.pth")
        write_weights(read_weights(folder)[0], weights, layout)
    (result,) = run(f"runs_dir={tmp_path / 'runs'}", *KNN, f"init_from={weights}")
    assert (result["start"], result["title"]) == ("given", "kNN, given weights")
    assert result["metrics"]["val/accuracy"] == accuracy
    assert result["parent"] is None


def test_fine_tuning_starts_from_given_weights_and_controls_do_not(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    results = run(
        f"runs_dir={tmp_path}",
        f"init_from={pretrained[0]}",
        "stages=[finetune,scratch]",
        "controls=[random,pixels]",
        "labels=100",
        "finetune.base_lr=1e-9",
    )
    assert [result["start"] for result in results] == ["given", "pixels", "random"]
    (tuned,) = tmp_path.glob(
        f"finetune/{results[0]['fingerprint']}/checkpoints/step=*.ckpt"
    )
    ours, theirs = (
        load_weights(tuned, "model.features.encoder."),
        read_weights(pretrained[0])[0].encoder,
    )
    torch.testing.assert_close(
        ours["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"]
    )


def test_pretraining_starts_from_given_weights(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    """The first loss is about where the given pretraining ended; the fingerprint is another."""
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        f"init_from={pretrained[0]}",
        "pretrain.base_lr=1e-9",
    )
    (result,) = run(*overrides)
    log = read_rows(
        StageFolder(tmp_path, plan_for(*overrides).stages[0]).path / "metrics.jsonl"
    )
    before = [
        row["val/loss"]
        for row in read_rows(pretrained[0] / "metrics.jsonl")
        if "val/loss" in row
    ][-1]
    assert result["metrics"]["val/loss"] == pytest.approx(before, rel=1e-4)
    assert log[0]["train/loss"] == pytest.approx(before, rel=0.1)
    assert result["fingerprint"] != pretrained[0].name


def test_pretraining_from_an_encoder_alone_has_a_new_decoder(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    write_weights(read_weights(pretrained[0])[0], tmp_path / "encoder.pth", "timm")
    (result,) = run(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        f"init_from={tmp_path / 'encoder.pth'}",
    )
    assert result["title"] == "pretrain, given weights"


def test_weights_are_identified_by_content_not_by_path(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    file = next((pretrained[0] / "checkpoints").glob("step=*.ckpt"))
    (tmp_path / "elsewhere.ckpt").write_bytes(file.read_bytes())
    assert weights_identity(str(tmp_path / "elsewhere.ckpt")) == weights_identity(
        str(pretrained[0])
    )
    (tmp_path / "elsewhere.ckpt").write_bytes(file.read_bytes() + b"x")
    assert weights_identity(str(tmp_path / "elsewhere.ckpt")) != weights_identity(
        str(pretrained[0])
    )


def test_weights_that_are_missing_or_do_not_fit_are_refused_in_one_line(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"init_from = /nowhere: no such file or folder",
    ):
        plan_for("init_from=/nowhere", *KNN)
    given = f"init_from={pretrained[0]}"
    with pytest.raises(
        ConfigError, match=r"encoder is 16 wide, 1 deep.* the model's 32 wide"
    ):
        plan_for(given, *KNN, "model.width=32")
    with pytest.raises(
        ConfigError,
        match=r"7 pixels a patch's side, the model 4; set data.patch_size=7",
    ):
        plan_for(given, *KNN, "data.patch_size=4")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(
        ConfigError, match=r"noise.pth: is neither a PyTorch nor a safetensors file"
    ):
        plan_for(f"init_from={tmp_path / 'noise.pth'}", *KNN)


def test_a_stage_with_another_image_size_can_be_read(tmp_path: Path) -> None:
    run(
        f"runs_dir={tmp_path}", "stages=[scratch]", "labels=20", "scratch.image_size=56"
    )
    weights, _ = read_weights(next(tmp_path.glob("scratch/*")))
    assert weights.geometry.grid == (8, 8)


def test_the_average_is_read_where_a_stage_has_one(tmp_path: Path) -> None:
    """The average is what the stage evaluated."""
    run(f"runs_dir={tmp_path}", "stages=[scratch]", "labels=20", "scratch.ema=0.5")
    (folder,) = tmp_path.glob("scratch/*")
    state = checkpoints.load(next(folder.glob("checkpoints/step=*.ckpt")))["state_dict"]
    weights, report = read_weights(folder)
    average = state["ema.module.features.encoder.blocks.0.attn.qkv.weight"]
    assert torch.equal(weights.encoder["blocks.0.attn.qkv.weight"], average)
    assert not torch.equal(
        average, state["model.features.encoder.blocks.0.attn.qkv.weight"]
    )
    assert set(report.dropped.values()) >= {"the weights before averaging"}
