"""A checkpoint on disk reconstructs the data set's images, or any others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foreign_weights import HINTS, TINY, build_mae, build_weights, official_state
from small_runs import call, image_folder, run
from unmask.commands.reconstruct.autoencoder import (
    find_checkpoint,
    load_autoencoder,
    reconstruct_images,
)
from unmask.commands.reconstruct.foreign import Reading
from unmask.config.checks import ConfigError
from unmask.exchange.facts import Facts
from unmask.exchange.load_into_model import load_mae
from unmask.exchange.write import WritableLayout, write_weights
from unmask.masking import RandomMasking
from unmask.randomness import make_key
from unmask.reconstructions import GAP, LABEL_HEIGHT
from unmask.storage import checkpoints
from unmask.targets import NormalisedPixel, Pixel


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run(
        f"runs_dir={runs}",
        "stages=[pretrain,scratch]",
        "pretrain.epochs=1",
        "labels=20",
    )
    (folder,) = runs.glob("pretrain/*")
    return folder


def test_the_data_sets_own_images_are_the_default(stage: Path) -> None:
    result = reconstruct_images(
        find_checkpoint(stage), None, count=5, mask_ratio=None, seed=0
    )
    assert result.original_BCHW.shape == (5, 1, 28, 28)
    assert not torch.equal(result.original_BCHW, result.pasted_BCHW)


def test_images_of_any_size_and_mode_are_cropped_to_fit(
    stage: Path, tmp_path: Path
) -> None:
    image_folder(tmp_path, per_class=2, size=50)
    result = reconstruct_images(
        find_checkpoint(stage), tmp_path, count=3, mask_ratio=0.5, seed=0
    )
    assert result.original_BCHW.shape == (3, 1, 28, 28)


def test_pictures_that_cannot_be_read_are_skipped_and_named(
    stage: Path, tmp_path: Path
) -> None:
    """As in training and prediction; hidden files are no pictures at all."""
    image_folder(tmp_path, per_class=2)
    (tmp_path / "cat" / "000.png").write_bytes(b"no picture")
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "a.png").write_bytes(b"a thumbnail")
    with pytest.warns(UserWarning, match=r"skipped: .*cat/000\.png") as caught:
        result = reconstruct_images(
            find_checkpoint(stage), tmp_path, count=4, mask_ratio=None, seed=0
        )
    assert len(result.original_BCHW) == 3
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"none of 1 images can be read; .*000\.png"):
        reconstruct_images(
            find_checkpoint(stage), tmp_path / "cat" / "000.png", 1, None, 0
        )


def test_a_stage_folder_and_its_file_mean_the_same_checkpoint(stage: Path) -> None:
    assert (
        find_checkpoint(find_checkpoint(stage))
        == find_checkpoint(stage)
        == find_checkpoint(stage / "checkpoints")
    )


def test_stages_without_a_decoder_and_missing_checkpoints_are_refused(
    stage: Path, tmp_path: Path
) -> None:
    (scratch,) = stage.parent.parent.glob("scratch/*")
    with pytest.raises(
        ConfigError, match="of stage scratch; only pretraining has a decoder"
    ):
        reconstruct_images(find_checkpoint(scratch), None, 1, None, 0)
    with pytest.raises(ConfigError, match=r"nor checkpoints of a stage; see runs/pre"):
        find_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file or folder"):
        reconstruct_images(find_checkpoint(stage), tmp_path / "none", 1, None, 0)
    with pytest.raises(ConfigError, match=r"mask_ratio = 2"):
        reconstruct_images(find_checkpoint(stage), None, 1, 2.0, 0)


def test_a_checkpoint_of_another_version_says_so(stage: Path, tmp_path: Path) -> None:
    content = checkpoints.load(find_checkpoint(stage))
    del content["unmask"]["config"]["finetune"]
    path = checkpoints.save(content, tmp_path, 1)
    with pytest.raises(
        ConfigError,
        match=(
            r"another version's \(finetune: missing.*\); use the version that"
            r" trained it"
        ),
    ):
        reconstruct_images(path, None, 1, None, 0)


@pytest.mark.parametrize("layout", ["official", "hf", "safetensors"])
def test_weights_of_others_with_a_decoder_are_drawn(
    layout: WritableLayout, tmp_path: Path
) -> None:
    """As the checkpoint they come from would be, whatever the file."""
    weights = replace(
        build_weights(TINY), facts=Facts("pixel", 0.5, (0.5,) * 3, (0.25,) * 3)
    )
    write_weights(weights, tmp_path / "mae", layout)
    image_folder(tmp_path / "images", per_class=2, size=8)
    path = find_checkpoint(tmp_path / "mae")
    autoencoder = load_autoencoder(path)
    assert autoencoder.config.mask_ratio == 0.5
    assert isinstance(autoencoder.target, Pixel)
    expected = build_mae(TINY)
    load_mae(expected, weights)
    images_BCHW = autoencoder.normalised_images(tmp_path / "images", 3)
    masking = RandomMasking((4, 4), 0.5)(make_key(0, "picture"), torch.arange(3), 0)
    assert autoencoder.model(images_BCHW, masking).equal(expected(images_BCHW, masking))
    result = reconstruct_images(path, tmp_path / "images", 3, None, 0)
    assert result.pasted_BCHW.shape == (3, 3, 8, 8)


def test_what_a_bare_official_file_leaves_open_is_assumed_and_said(
    tmp_path: Path,
) -> None:
    state = official_state(decoder=True)
    path = tmp_path / "visualize.pth"
    torch.save({"model": state}, path)
    loaded = load_autoencoder(path, reading=Reading(HINTS))
    text = " ".join(loaded.notes or ())
    for words in ("grid=[rows", "target=pixel_norm", "normalised; ImageNet's"):
        assert words in text
    assert loaded.config.mask_ratio == 0.75
    chosen = load_autoencoder(path, reading=Reading(HINTS, target="pixel_norm"))
    assert isinstance(chosen.target, NormalisedPixel)
    with pytest.raises(ConfigError, match=r"images: missing; .* give an image"):
        reconstruct_images(path, None, 1, None, 0, Reading(HINTS))
    torch.save({"model": official_state()}, path)
    with pytest.raises(ConfigError, match=r"holds no decoder"):
        load_autoencoder(path, reading=Reading(HINTS))


@pytest.mark.process
def test_several_ratios_make_one_sheet(stage: Path, tmp_path: Path) -> None:
    out = tmp_path / "ratios.png"
    typed = (f"checkpoint={stage}", f"out={out}", "count=2")
    done = call(*typed, "mask_ratio=0.5,0.75", script="reconstruct.py", tiny=False)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        # the image, then masked and filled in at each ratio, of 28 pixels x 3
        assert sheet.width == 5 * (84 + 2 * GAP)
        assert sheet.height == LABEL_HEIGHT + 2 * (84 + 2 * GAP)
        labels = np.asarray(sheet)[:LABEL_HEIGHT]
        assert (labels < 128).any(axis=(0, 2)).sum() > 100
    done = call(*typed, "mask_ratio=0.5,2", script="reconstruct.py", tiny=False)
    assert (done.returncode, "mask_ratio = '2'" in done.stderr) == (2, True)


@pytest.mark.process
def test_the_command_writes_the_picture(stage: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    done = call(
        f"checkpoint={find_checkpoint(stage)}",
        f"out={out}",
        "count=4",
        script="reconstruct.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        assert picture.width > 4 * 3 * 84
    wrong = call("checkpoint=/nowhere", script="reconstruct.py", tiny=False)
    assert (wrong.returncode, "checkpoint=/nowhere" in wrong.stderr) == (2, True)
    for bad, message in (
        ("count=0", "count = 0"),
        ("count=abc", "count = 'abc'"),
        ("seed=-1", "seed = -1"),
    ):
        done = call(f"checkpoint={stage}", bad, script="reconstruct.py", tiny=False)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    missing = call(script="reconstruct.py", tiny=False)
    assert (missing.returncode, "checkpoint: missing" in missing.stderr) == (2, True)
