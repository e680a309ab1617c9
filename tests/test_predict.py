"""Predictions are what evaluation measured: the same images, weights and classes, whatever file they come from."""

import csv
import io
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from foreign_weights import official_state, save_official
from small_runs import call, load_weights, run
from unmask.commands.predict.arguments import Predict
from unmask.commands.predict.predictions import (
    Predictions,
    predict,
    predictions_table,
    write_csv,
)
from unmask.config.checks import ConfigError
from unmask.data.listing.listing import list_images
from unmask.exchange.geometry import Hints
from unmask.exchange.read_weights import read_weights
from unmask.exchange.write import write_weights
from unmask.storage import checkpoints
from unmask.training.classifiers import load_trained_classifier

CLASSES = ("cat", "cow", "dog")


def draw_images(root: Path, per_class: int = 30) -> Path:
    """Images of several sizes whose brightness tells the class, with noise that makes classifiers err."""
    generator = np.random.default_rng(0)
    for i, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for j in range(per_class):
            size = (int(generator.integers(16, 25)), int(generator.integers(16, 25)), 3)
            level = np.clip(60 + 60 * i + generator.normal(0, 45), 0, 195)
            pixels = generator.integers(0, 60, size) + int(level)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{j:03d}.png")
    return root


@pytest.fixture(scope="module")
def images_and_ledger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images, and a ledger with every kind of classifier of them."""
    root = tmp_path_factory.mktemp("predictions")
    images = draw_images(root / "images")
    run(
        f"runs_dir={root / 'runs'}",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.num_workers=0",
        "data.eval_crop=0.875",
        "data.holdout=0.4",
        "pretrain.epochs=1",
        "stages=[pretrain,linear_probe,attentive_probe,partial_finetune,finetune,scratch]",
        "controls=[random,pixels]",
        "finetune.epochs=4",
        "finetune.ema=0.7",
        "finetune.base_lr=0.1",
        "finetune.image_size=24",
        "attentive_probe.heads=2",
        "attentive_probe.epochs=2",
        "partial_finetune.epochs=2",
        "partial_finetune.blocks=1",
        "scratch.ema=null",
        "scratch.epochs=3",
        "linear_probe.image_size=20",
    )
    return images, root / "runs"


def stage(ledger: Path, kind: str, start: str = "pretrained") -> Path:
    (folder,) = [
        f
        for f in ledger.glob(f"{kind}/*")
        if pd.read_json(f / "result.json", typ="series")["start"] == start
    ]
    return folder


def arguments(checkpoint: Path, images: Path, **more: Any) -> Predict:
    optional = ("count", "out", "classes", "eval_crop", "heads", "grid", "weights")
    values: dict[str, Any] = (
        dict.fromkeys(optional) | {"top": 5, "device": "cpu"} | more
    )
    return Predict.model_validate(
        {"checkpoint": str(checkpoint), "images": str(images), **values}
    )


def confusion(predictions: Predictions, images: Path) -> dict[tuple[str, str], int]:
    """How often validation images of a class are predicted as which class."""
    listing = list_images(images, 0.4)
    best = {
        name: row[0][0]
        for name, row in zip(predictions.names, predictions.top_classes(), strict=True)
    }
    return dict(
        Counter((listing.classes[label], best[name]) for name, label in listing.val)
    )


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("finetune", "pretrained"),
        ("finetune", "pixels"),
        ("scratch", "random"),
        ("partial_finetune", "pretrained"),
        ("attentive_probe", "pretrained"),
        ("linear_probe", "pretrained"),
        ("linear_probe", "random"),
        ("linear_probe", "pixels"),
    ],
)
def test_predicted_classes_are_those_that_evaluation_counted(
    images_and_ledger: tuple[Path, Path], kind: str, start: str
) -> None:
    images, ledger = images_and_ledger
    folder = stage(ledger, kind, start)
    counted = pd.read_csv(folder / "confusion.csv", index_col="true")
    expected = {(t, p): n for t, row in counted.iterrows() for p, n in row.items() if n}
    predictions = predict(arguments(folder, images))
    assert confusion(predictions, images) == expected
    accuracy = (
        100
        * sum(n for (true, predicted), n in expected.items() if true == predicted)
        / sum(expected.values())
    )
    assert accuracy == pytest.approx(
        pd.read_json(folder / "result.json", typ="series")["metrics"]["val/accuracy"]
    )


def test_averaged_weights_predict_where_they_exist(
    images_and_ledger: tuple[Path, Path],
) -> None:
    """The trained weights would predict something else, and the test above would notice."""
    folder = stage(images_and_ledger[1], "finetune")
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    state = load_trained_classifier(folder, Hints(), None, None).model.state_dict()
    averaged, trained = (
        load_weights(path, prefix) for prefix in ("ema.module.", "model.")
    )
    assert all(torch.equal(state[name], averaged[name]) for name in averaged)
    assert not torch.equal(averaged["head.weight"], trained["head.weight"])


def test_image_size_is_the_stages_own(images_and_ledger: tuple[Path, Path]) -> None:
    ledger = images_and_ledger[1]
    sizes = {
        kind: load_trained_classifier(
            stage(ledger, kind), Hints(), None, None
        ).image_format.shape
        for kind in ("finetune", "linear_probe", "attentive_probe")
    }
    assert sizes == {
        "finetune": (24, 24),
        "linear_probe": (20, 20),
        "attentive_probe": (16, 16),
    }


def test_probabilities_are_sorted_and_sum_to_one(
    images_and_ledger: tuple[Path, Path],
) -> None:
    predictions = predict(
        arguments(
            stage(images_and_ledger[1], "finetune"),
            images_and_ledger[0],
            count=7,
            top=2,
        )
    )
    assert len(predictions.names) == 7
    assert predictions.names[0] == "cat/000.png"
    assert all(
        len(row) == 2 and row[0][1] >= row[1][1] for row in predictions.top_classes()
    )
    torch.testing.assert_close(predictions.probabilities_NK.sum(dim=1), torch.ones(7))


def test_class_names_travel_with_the_checkpoint(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere.ckpt"
    path = checkpoints.newest(stage(images_and_ledger[1], "finetune") / "checkpoints")
    assert path is not None
    shutil.copy(path, folder)
    assert (
        predict(arguments(folder, images_and_ledger[0] / "cat" / "000.png")).classes
        == CLASSES
    )
    content = checkpoints.load(path)
    del content["unmask"]["classes"]
    torch.save(content, folder)
    assert predict(
        arguments(folder, images_and_ledger[0] / "cat" / "000.png")
    ).classes == (
        "0",
        "1",
        "2",
    )
    (tmp_path / "names.txt").write_text("Katze\nKuh\nHund\n")
    assert (
        predict(
            arguments(
                folder,
                images_and_ledger[0],
                classes=tmp_path.joinpath("names.txt").as_posix(),
            )
        ).classes[2]
        == "Hund"
    )


def test_a_head_on_stored_features_needs_the_ledger_around_it(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = stage(images_and_ledger[1], "linear_probe")
    shutil.copytree(folder, tmp_path / "linear_probe" / folder.name)
    with pytest.raises(
        ConfigError,
        match=(
            r"is a head on stored features: .* give it where it was made, or train a"
            r" probe"
        ),
    ):
        predict(
            arguments(tmp_path / "linear_probe" / folder.name, images_and_ledger[0])
        )


def test_checkpoints_and_folders_without_classes_or_images_are_refused(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    images, ledger = images_and_ledger
    (pretrained,) = ledger.glob("pretrain/*")
    with pytest.raises(
        ConfigError,
        match=(
            r"is of stage pretrain, which knows no classes; give one of linear_probe,"
            r" attentive_probe"
        ),
    ):
        predict(arguments(pretrained, images))
    torch.save(official_state(), tmp_path / "encoder.pth")
    with pytest.raises(
        ConfigError, match=r"\(timm\) has no classifier's head; give fine-tuned weights"
    ):
        predict(arguments(tmp_path / "encoder.pth", images, heads=4))
    with pytest.raises(
        ConfigError, match=r"checkpoint=.*nowhere: no such file or folder"
    ):
        predict(arguments(tmp_path / "nowhere", images))
    with pytest.raises(ConfigError, match=r"images=.*nowhere: no such file or folder"):
        predict(arguments(stage(ledger, "finetune"), tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no images in it \(.bmp"):
        predict(arguments(stage(ledger, "finetune"), tmp_path / "empty"))
    (tmp_path / "two.txt").write_text("a\nb")
    with pytest.raises(
        ConfigError, match=r"two.txt has 2 lines, the checkpoint 3 classes"
    ):
        predict(
            arguments(
                stage(ledger, "finetune"), images, classes=str(tmp_path / "two.txt")
            )
        )


def test_bad_images_are_named_and_the_others_predicted(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(images_and_ledger[0] / "cat", tmp_path / "mixed")
    (tmp_path / "mixed" / "000.png").write_bytes(b"nothing")
    (tmp_path / "mixed" / "notes.txt").write_text("not listed")
    folder = stage(images_and_ledger[1], "finetune")
    predictions, all_predictions = (
        predict(arguments(folder, tmp_path / "mixed")),
        predict(arguments(folder, images_and_ledger[0] / "cat")),
    )
    assert len(predictions.skipped) == 1
    assert "mixed/000.png cannot be read as an image" in predictions.skipped[0]
    assert predictions.names == all_predictions.names[1:]
    torch.testing.assert_close(
        predictions.probabilities_NK,
        all_predictions.probabilities_NK[1:],
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(
        ValueError,
        match=r"(?s)000.png cannot be read.*none of 1 files can be read as an image",
    ):
        predict(arguments(folder, tmp_path / "mixed" / "000.png"))


@pytest.mark.parametrize("head", ["fc_norm", "cls", "probe"])
def test_foreign_fine_tuned_weights_predict_alike_in_every_layout(
    head: str, images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    """Weights of the official port, and the same written in the other layouts."""
    path = save_official(tmp_path / "official.pth", official_state(head=head))
    first = predict(arguments(path, images_and_ledger[0], heads=4, count=6))
    assert first.classes == ("0", "1", "2", "3", "4")
    classifier = load_trained_classifier(path, Hints(heads=4), None, None)
    assert (
        classifier.image_format.shape,
        classifier.image_format.eval_crop,
        classifier.image_format.mean,
    ) == (
        (8, 8),
        0.875,
        (0.485, 0.456, 0.406),
    )
    weights, _ = read_weights(path, Hints(heads=4))
    for layout in ("timm", "safetensors", *(("hf",) if head != "fc_norm" else ())):
        write_weights(weights, tmp_path / layout, layout)
        again = predict(
            arguments(tmp_path / layout, images_and_ledger[0], heads=4, count=6)
        )
        torch.testing.assert_close(
            again.probabilities_NK, first.probabilities_NK, rtol=1e-4, atol=1e-6
        )
        assert again.classes[1] == ("LABEL_1" if layout == "hf" else "1")


def test_the_table_is_cut_and_the_csv_is_not(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions = predict(
        arguments(stage(images_and_ledger[1], "finetune"), images_and_ledger[0], top=2)
    )
    shown = io.StringIO()
    Console(width=160, file=shown).print(predictions_table(predictions, 20))
    assert sum(".png" in line for line in shown.getvalue().splitlines()) == 20
    odd = os.fsdecode(b"\xff.png")  # no UTF-8
    other = replace(predictions, names=(odd, *predictions.names[1:]))
    write_csv(other, tmp_path / "all.csv")
    assert b"\n\xff.png," in (tmp_path / "all.csv").read_bytes()
    Console(width=160, file=shown).print(predictions_table(other, 1))
    assert shown.getvalue().encode().count(b"udcff.png") == 1
    write_csv(predictions, tmp_path / "all.csv")
    rows = list(csv.reader((tmp_path / "all.csv").open()))
    assert rows[0] == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert len(rows) == 91
    assert float(rows[1][2]) == pytest.approx(
        predictions.top_classes()[0][0][1], abs=1e-6
    )


@pytest.mark.process
def test_the_command_writes_a_csv_and_names_skipped_files(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    images, ledger = images_and_ledger
    folder, out = stage(ledger, "finetune"), tmp_path / "p.csv"
    done = call(
        f"checkpoint={folder}",
        f"images={images}",
        f"out={out}",
        script="predict.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"90 images: {out}, the first 20 of them above" in done.stdout
    assert "cat/000.png" in done.stdout
    assert "dog/000.png" not in done.stdout
    assert "dog/000.png" in out.read_text()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "[bold].png").write_bytes(b"")
    shutil.copy(images / "dog" / "000.png", tmp_path / "some" / "a.png")
    done = call(
        f"checkpoint={folder}",
        f"images={tmp_path / 'some'}",
        script="predict.py",
        tiny=False,
    )
    assert (done.returncode, "a.png" in done.stdout, "skipped: " in done.stderr) == (
        0,
        True,
        True,
    ), done.stderr
    assert "[bold].png" in done.stderr
    (tmp_path / "some" / "a.png").unlink()
    done = call(
        f"checkpoint={folder}",
        f"images={tmp_path / 'some'}",
        script="predict.py",
        tiny=False,
    )
    assert (done.returncode, "none of 1 files" in done.stderr) == (1, True), done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("images=/tmp",), "checkpoint: missing; give a stage (the first digits"),
        (("checkpoint=/nowhere", "images=/tmp", "top=0"), "top = 0"),
        (
            ("checkpoint=/nowhere", "images=/nowhere"),
            "images=/nowhere: no such file or folder",
        ),
        (
            ("checkpoint=/nowhere", "images=/tmp", "out=/nowhere/p.csv"),
            "out=/nowhere/p.csv: its folder does not exist",
        ),
        (("chekpoint=/nowhere",), "did you mean checkpoint?"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(
    typed: tuple[str, ...], message: str
) -> None:
    done = call(*typed, script="predict.py", tiny=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (
        2,
        True,
        False,
    ), done.stderr
