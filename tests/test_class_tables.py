"""The tables of a classifier's result: image by image, by class, class against class."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from small_runs import run
from unmask.training import class_tables
from unmask.training.class_tables import write_class_tables

# image, label, predicted; nothing is of the third class
ANSWERS = torch.tensor([[0, 0, 0], [1, 0, 1], [2, 1, 1], [4, 0, 3]])
NAMES = ["cat", "dog", "elk", "fox"]


def test_tables_count_what_was_said_of_each_image(tmp_path: Path) -> None:
    write_class_tables(tmp_path, NAMES, ANSWERS)
    rows = pd.read_csv(tmp_path / "predictions.csv")
    assert rows.columns.tolist() == ["image", "label", "predicted"]
    assert rows.to_numpy().tolist() == ANSWERS.tolist()
    by_class = pd.read_csv(tmp_path / "classes.csv")
    assert by_class["class"].tolist() == NAMES
    assert by_class["images"].tolist() == [3, 1, 0, 0]
    # a class without images has no accuracy
    assert by_class["accuracy"].fillna(-1).tolist() == [33.33, 100, -1, -1]
    square = pd.read_csv(tmp_path / "confusion.csv", index_col="true")
    assert square.index.tolist() == square.columns.tolist() == NAMES
    assert square.to_numpy().tolist() == [
        [1, 1, 0, 1],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_many_classes_have_no_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_tables, "MAX_CONFUSION_CLASSES", 3)
    write_class_tables(tmp_path, NAMES, ANSWERS)
    assert not (tmp_path / "confusion.csv").exists()
    assert (tmp_path / "classes.csv").exists()


def test_knn_keeps_what_it_said_of_each_image(tmp_path: Path) -> None:
    wanted = ("stages=[pretrain,knn]", "controls=[pixels]", "pretrain.epochs=1")
    results = [
        result
        for result in run(f"runs_dir={tmp_path}", *wanted)
        if result["stage"] == "knn"
    ]
    assert {result["start"] for result in results} == {"pretrained", "pixels"}
    for result in results:
        folder = tmp_path / "knn" / result["fingerprint"]
        rows = pd.read_csv(folder / "predictions.csv")
        assert rows["image"].tolist() == list(range(result["images"]))
        accuracy = 100 * (rows["label"] == rows["predicted"]).mean()
        assert accuracy == pytest.approx(result["metrics"]["val/accuracy"])
        assert pd.read_csv(folder / "classes.csv")["images"].sum() == len(rows)
