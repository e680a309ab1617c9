"""Predictions are what evaluation measured: the same images, weights and classes, whatever file they come from."""

import csv
import io
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from foreign_weights import official_state, save_official
from small_runs import call, load_weights, run, stage
from unmask.commands.predict import run as predict_command
from unmask.commands.predict.arguments import Predict
from unmask.commands.predict.predictions import (
    PredictedBatch,
    Predictor,
    TopClasses,
    load_predictor,
)
from unmask.commands.predict.tables import predictions_table
from unmask.commands.predict.writing import open_out
from unmask.commands.wanted_images import find_wanted
from unmask.config.checks import ConfigError
from unmask.data.listing.listing import list_images
from unmask.exchange.geometry import Hints
from unmask.exchange.read_weights import read_weights
from unmask.exchange.write import write_weights
from unmask.library.results import Classification
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


def arguments(checkpoint: Path, images: Path, **more: Any) -> Predict:
    optional = (
        *("count", "out", "batch_size", "classes"),
        *("eval_crop", "heads", "grid", "weights"),
    )
    values: dict[str, Any] = (
        dict.fromkeys(optional) | {"top": 5, "device": "cpu"} | more
    )
    return Predict.model_validate(
        {"checkpoint": str(checkpoint), "images": str(images), **values}
    )


@dataclass(frozen=True)
class Predictions:
    """All that a predictor yields, at once."""

    rows: list[TopClasses]
    probabilities_NK: Float[Tensor, "N K"]
    classes: tuple[str, ...]
    skipped: list[str]

    @property
    def names(self) -> list[str]:
        return [row.image for row in self.rows]

    def top_classes(self) -> list[list[tuple[str, float]]]:
        return [row.top for row in self.rows]


def predict(arguments: Predict) -> Predictions:
    images = find_wanted(Path(arguments.images), arguments.count)
    predictor = load_predictor(arguments, images)
    batches = list(predictor.batches())
    return Predictions(
        [row for batch in batches for row in predictor.rows(batch)],
        torch.cat([batch.probabilities() for batch in batches]),
        predictor.classes,
        [fault for batch in batches for fault in batch.faults],
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


def test_among_equal_logits_the_first_classes_come_first() -> None:
    """As the accuracy counts them; bfloat16 makes many equal."""
    logits_BK = torch.tensor([[1.0, 2, 2, 1, 2], [0, 0, 0, 0, 0]])
    batch = PredictedBatch(["a", "b"], torch.tensor([1, 0]), logits_BK, [])
    predictor: Any = SimpleNamespace(top=4, classes=tuple("vwxyz"))
    rows = Predictor.rows(predictor, batch)
    assert ["".join(name for name, _ in row.top) for row in rows] == ["wxzv", "vwxy"]
    found = Classification(logits_BK.softmax(dim=1), tuple("vwxyz"))
    assert [[name for name, _ in row] for row in found.top(2)] == [
        ["w", "x"],
        ["v", "w"],
    ]
    assert found.best == ["w", "v"]


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
    with pytest.raises(ValueError, match=r"none of 1 files can be read as an image"):
        predict_command(arguments(folder, tmp_path / "mixed" / "000.png"))


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


def test_odd_names_fit_a_line_and_keep_their_bytes_in_csv(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    predictor = load_predictor(
        arguments(stage(images_and_ledger[1], "finetune"), images_and_ledger[0], top=2),
        find_wanted(images_and_ledger[0], None),
    )
    odd = os.fsdecode(b"\xff.png")  # no UTF-8
    rows = [TopClasses(odd, [("cat", 0.75), ("dog", 0.125)], None)]
    shown = io.StringIO()
    Console(width=160, file=shown).print(predictions_table(rows))
    assert shown.getvalue().encode().count(b"udcff.png") == 1
    for name in ("all.csv", "all.parquet"):
        with open_out(tmp_path / name, predictor) as write:
            write(rows)
    assert (
        b"\n\xff.png,cat,0.750000,dog,0.125000," in (tmp_path / "all.csv").read_bytes()
    )
    (read,) = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [*read.values()] == ["\\udcff.png", "cat", 0.75, "dog", 0.125, None]


def test_accuracy_rows_and_parquet_are_those_of_evaluation_for_any_batch(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    """Every image is predicted once, in order, whatever the batch; labels are the folders'."""
    images, ledger = images_and_ledger
    folder = stage(ledger, "finetune")
    counts = [
        predict_command(
            arguments(folder, images, top=2, batch_size=size, out=str(tmp_path / name))
        )
        for size, name in ((7, "seven.csv"), (None, "whole.csv"), (90, "whole.parquet"))
    ]
    rows = list(csv.reader((tmp_path / "whole.csv").open()))
    header = ["image", "class_1", "probability_1", "class_2", "probability_2", "label"]
    assert (rows[0], len(rows)) == (header, 91)
    (seven, whole), stored = (
        [pd.read_csv(tmp_path / name) for name in ("seven.csv", "whole.csv")],
        pd.read_parquet(tmp_path / "whole.parquet"),
    )
    pd.testing.assert_frame_equal(seven, whole, atol=2e-6, rtol=0)
    pd.testing.assert_frame_equal(stored, whole, atol=2e-6, rtol=0, check_dtype=False)
    assert list(whole["label"]) == [name.split("/")[0] for name in whole["image"]]
    right = whole["class_1"] == whole["label"]
    for accuracy in counts:
        # of three classes the first five are all of them
        assert accuracy.per_cent() == {"top-1": pytest.approx(100 * right.mean())}
    by_class = pd.read_csv(tmp_path / "whole.classes.csv", index_col="class")
    assert list(by_class["images"]) == [30, 30, 30]
    assert by_class["top-1"].to_dict() == pytest.approx(
        (100 * right.groupby(whole["label"]).mean()).to_dict(), abs=0.01
    )


def test_labels_come_from_folders_or_a_list_and_unknown_ones_are_left_out(
    images_and_ledger: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, ledger = images_and_ledger
    folder = stage(ledger, "finetune")
    shutil.copytree(images / "dog", tmp_path / "set" / "val" / "dog")
    shutil.copytree(images / "cat", tmp_path / "set" / "val" / "lion")
    accuracy = predict_command(arguments(folder, tmp_path / "set"))
    assert (accuracy.images, accuracy.images_K.tolist()) == (30, [0, 0, 30])
    assert "30 of 60 images are of no class" in capsys.readouterr().out
    listed = images / "list.csv"
    names = [f"cat/{j:03d}.png" for j in range(8)]
    lines = [f"{name},{'cow' if j < 6 else 'zebra'}" for j, name in enumerate(names)]
    lines[0] = f"{images}/{lines[0]}"
    listed.write_text("\n".join(["path,label", *lines]))
    accuracy = predict_command(arguments(folder, listed))
    assert accuracy.images_K.tolist() == [0, 6, 0]
    alone = predict(arguments(folder, images, count=6))
    share = np.mean([row[0][0] == "cow" for row in alone.top_classes()])
    assert accuracy.per_cent()["top-1"] == pytest.approx(100 * share)
    listed.write_text("a.png,lion\nb.png,zebra")
    with pytest.raises(
        ConfigError, match=r"none of the classes in the list \(lion, zebra\) is one of"
    ):
        predict(arguments(folder, listed))
    listed.write_text("path\ncat/000.png")
    with pytest.raises(ConfigError, match=r"line 2 .* a list has lines of path,label"):
        predict(arguments(folder, listed))
    listed.unlink()


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
        (
            ("checkpoint=/nowhere", "images=/tmp", "out=/tmp/p.xlsx"),
            "its ending says how it is written; end it in .csv or .parquet",
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


def test_what_is_read_is_not_replaced(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    """A list of images is the work of a person; it is refused before torch is loaded."""
    images, ledger = images_and_ledger
    image = next(images.rglob("*.png"))
    checkpoint = stage(ledger, "finetune")
    listed = tmp_path / "test.classes.csv"
    listed.write_text(f"{image},cat\n")
    names = tmp_path / "names.csv"
    names.write_text("cat\ndog\n")
    (tmp_path / "folder.csv").mkdir()
    for message, more in (
        ("which images= reads", {"images": listed, "out": f"{listed}"}),
        ("which images= reads", {"images": listed, "out": f"{tmp_path}/test.csv"}),
        ("which classes= reads", {"classes": f"{names}", "out": f"{names}"}),
        ("is a folder", {"out": f"{tmp_path}/folder.csv"}),
        ("weights=ema: .* says it itself", {"weights": "ema"}),
        ("heads=4: .* says it itself", {"heads": 4}),
    ):
        with pytest.raises(ConfigError, match=message):
            predict_command(arguments(checkpoint, **({"images": images} | more)))
    assert listed.read_text() == f"{image},cat\n"
    assert names.read_text() == "cat\ndog\n"


def test_parquet_keeps_the_letters_of_names(
    images_and_ledger: tuple[Path, Path], tmp_path: Path
) -> None:
    """Such as the narrow space that some systems put into names of screenshots."""
    image = next(images_and_ledger[0].rglob("*.png"))
    shutil.copy(image, tmp_path / "10\u202fAM.png")
    out = tmp_path / "p.parquet"
    checkpoint = stage(images_and_ledger[1], "finetune")
    predict_command(arguments(checkpoint, tmp_path, out=f"{out}"))
    assert pd.read_parquet(out)["image"].tolist() == ["10\u202fAM.png"]
