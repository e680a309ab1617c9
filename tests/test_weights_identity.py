"""Weights of others are known by their content and measured as they are, whatever their layout."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from small_runs import plan_for, run
from unmask.config.checks import ConfigError
from unmask.exchange.read import read
from unmask.exchange.weights import Layout
from unmask.exchange.write import write
from unmask.stages.fingerprint import weights_identity
from unmask.stages.ledger import StageFolder
from unmask.storage import checkpoints
from unmask.storage.metrics_log import read as read_journal

KNN = ("stages=[knn]", "knn.labels=500")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A stage's folder, and what kNN measures on it."""
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
        place = folder
    else:
        place = tmp_path / (
            "folder"
            if layout == "hf"
            else "file.safetensors"
            if layout == "safetensors"
            else "file.pth"
        )
        write(read(folder)[0], place, layout)
    (result,) = run(f"runs_dir={tmp_path / 'runs'}", *KNN, f"init_from={place}")
    assert (result["start"], result["title"]) == ("given", "kNN, given weights")
    assert result["metrics"]["val/accuracy"] == accuracy
    assert result["parent"] is None


def test_fine_tuning_starts_from_them_and_controls_do_not(
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
        checkpoints.weights(tuned, "model.features.encoder."),
        read(pretrained[0])[0].encoder,
    )
    torch.testing.assert_close(
        ours["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"]
    )


def test_pretraining_goes_on_from_them(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    """Encoder and decoder: the first loss is about where the given one ended, and the stage is another one."""
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        f"init_from={pretrained[0]}",
        "pretrain.base_lr=1e-9",
    )
    (result,) = run(*overrides)
    journal = read_journal(
        StageFolder(tmp_path, plan_for(*overrides).stages[0]).path / "metrics.jsonl"
    )
    before = [
        row["val/loss"]
        for row in read_journal(pretrained[0] / "metrics.jsonl")
        if "val/loss" in row
    ][-1]
    assert result["metrics"]["val/loss"] == pytest.approx(before, rel=1e-4)
    assert journal[0]["train/loss"] == pytest.approx(before, rel=0.1)
    assert result["fingerprint"] != pretrained[0].name


def test_an_encoder_alone_pretrains_with_a_new_decoder(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    write(read(pretrained[0])[0], tmp_path / "encoder.pth", "timm")
    (result,) = run(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        f"init_from={tmp_path / 'encoder.pth'}",
    )
    assert result["title"] == "pretrain, given weights"


def test_weights_are_known_by_content_not_by_place(
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


def test_what_is_not_there_or_does_not_fit_is_told_in_a_sentence(
    pretrained: tuple[Path, float], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"init_from = /nowhere: neither a file, nor a Hugging Face folder",
    ):
        plan_for("init_from=/nowhere", *KNN)
    with pytest.raises(
        ValueError, match=r"encoder is 16 wide, 1 deep.* the model's 32 wide"
    ):
        run(
            f"runs_dir={tmp_path}", f"init_from={pretrained[0]}", *KNN, "model.width=32"
        )
    with pytest.raises(
        ValueError, match=r"7 pixels a patch's side, the model 4; set data.patch_size=7"
    ):
        run(
            f"runs_dir={tmp_path}",
            f"init_from={pretrained[0]}",
            *KNN,
            "data.patch_size=4",
        )
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(
        ValueError, match=r"noise.pth is neither a PyTorch nor a safetensors file"
    ):
        run(f"runs_dir={tmp_path}", f"init_from={tmp_path / 'noise.pth'}", *KNN)


def test_a_stage_at_a_size_of_its_own_can_be_read(tmp_path: Path) -> None:
    run(
        f"runs_dir={tmp_path}", "stages=[scratch]", "labels=20", "scratch.image_size=56"
    )
    weights, _ = read(next(tmp_path.glob("scratch/*")))
    assert weights.geometry.grid == (8, 8)


def test_of_averaged_weights_the_average_is_given(tmp_path: Path) -> None:
    """It is what the stage measured."""
    run(f"runs_dir={tmp_path}", "stages=[scratch]", "labels=20", "scratch.ema=0.5")
    (folder,) = tmp_path.glob("scratch/*")
    state = checkpoints.load(next(folder.glob("checkpoints/step=*.ckpt")))["state_dict"]
    weights, report = read(folder)
    average = state["ema.module.features.encoder.blocks.0.attn.qkv.weight"]
    assert torch.equal(weights.encoder["blocks.0.attn.qkv.weight"], average)
    assert not torch.equal(
        average, state["model.features.encoder.blocks.0.attn.qkv.weight"]
    )
    assert set(report.dropped.values()) >= {"the weights before averaging"}
