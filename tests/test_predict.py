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

from foreign_weights import official, saved
from small_runs import call, run
from unmask.commands.predict import Predictions, predict, table, write_csv
from unmask.config.arguments import Predict
from unmask.config.checks import ConfigError
from unmask.data.listing.listing import list_images
from unmask.exchange.geometry import Hints
from unmask.exchange.read import read
from unmask.exchange.write import write
from unmask.storage import checkpoints
from unmask.training.classifiers import load_ready

CLASSES = ("cat", "cow", "dog")


def drawn(root: Path, per_class: int = 30) -> Path:
    """Images of several sizes whose brightness tells the class, but for noise that makes a classifier err."""
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
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images, and a ledger with every kind of classifier of them."""
    root = tmp_path_factory.mktemp("predictions")
    images = drawn(root / "images")
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


def given(checkpoint: Path, images: Path, **more: Any) -> Predict:
    optional = ("count", "out", "classes", "eval_crop", "heads", "grid")
    values: dict[str, Any] = (
        dict.fromkeys(optional) | {"top": 5, "device": "cpu"} | more
    )
    return Predict.model_validate(
        {"checkpoint": str(checkpoint), "images": str(images), **values}
    )


def confusion(found: Predictions, images: Path) -> dict[tuple[str, str], int]:
    """How often which class was taken for which, of the validation images."""
    listing = list_images(images, 0.4)
    best = {
        name: row[0][0] for name, row in zip(found.names, found.rows(), strict=True)
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
    place: tuple[Path, Path], kind: str, start: str
) -> None:
    images, ledger = place
    folder = stage(ledger, kind, start)
    counted = pd.read_csv(folder / "confusion.csv", index_col="true")
    expected = {(t, p): n for t, row in counted.iterrows() for p, n in row.items() if n}
    found = predict(given(folder, images))
    assert confusion(found, images) == expected
    right = (
        100
        * sum(n for (true, said), n in expected.items() if true == said)
        / sum(expected.values())
    )
    assert right == pytest.approx(
        pd.read_json(folder / "result.json", typ="series")["metrics"]["val/accuracy"]
    )


def test_averaged_weights_predict_where_there_are_some(
    place: tuple[Path, Path],
) -> None:
    """And the test above would notice: the trained weights say something else."""
    folder = stage(place[1], "finetune")
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    state = load_ready(folder, Hints(), None, None).model.state_dict()
    averaged, trained = (
        checkpoints.weights(path, prefix) for prefix in ("ema.module.", "model.")
    )
    assert all(torch.equal(state[name], averaged[name]) for name in averaged)
    assert not torch.equal(averaged["head.weight"], trained["head.weight"])


def test_image_size_is_the_stages_own(place: tuple[Path, Path]) -> None:
    ledger = place[1]
    sizes = {
        kind: load_ready(stage(ledger, kind), Hints(), None, None).form.shape
        for kind in ("finetune", "linear_probe", "attentive_probe")
    }
    assert sizes == {
        "finetune": (24, 24),
        "linear_probe": (20, 20),
        "attentive_probe": (16, 16),
    }


def test_probabilities_are_sorted_and_sum_to_one(place: tuple[Path, Path]) -> None:
    found = predict(given(stage(place[1], "finetune"), place[0], count=7, top=2))
    assert len(found.names) == 7
    assert found.names[0] == "cat/000.png"
    assert all(len(row) == 2 and row[0][1] >= row[1][1] for row in found.rows())
    torch.testing.assert_close(found.probabilities_NK.sum(dim=1), torch.ones(7))


def test_class_names_travel_with_the_checkpoint(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere.ckpt"
    path = checkpoints.newest(stage(place[1], "finetune") / "checkpoints")
    assert path is not None
    shutil.copy(path, folder)
    assert predict(given(folder, place[0] / "cat" / "000.png")).classes == CLASSES
    content = checkpoints.load(path)
    del content["unmask"]["classes"]
    torch.save(content, folder)
    assert predict(given(folder, place[0] / "cat" / "000.png")).classes == (
        "0",
        "1",
        "2",
    )
    (tmp_path / "names.txt").write_text("Katze\nKuh\nHund\n")
    assert (
        predict(
            given(folder, place[0], classes=tmp_path.joinpath("names.txt").as_posix())
        ).classes[2]
        == "Hund"
    )


def test_a_head_on_stored_features_needs_the_ledger_around_it(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = stage(place[1], "linear_probe")
    shutil.copytree(folder, tmp_path / "linear_probe" / folder.name)
    with pytest.raises(
        ConfigError,
        match=(
            r"is a head on stored features: .* give it where it was made, or train a"
            r" probe"
        ),
    ):
        predict(given(tmp_path / "linear_probe" / folder.name, place[0]))


def test_what_has_no_classes_is_refused(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    images, ledger = place
    (pretrained,) = ledger.glob("pretrain/*")
    with pytest.raises(
        ConfigError,
        match=(
            r"is of stage pretrain, which knows no classes; give one of linear_probe,"
            r" attentive_probe"
        ),
    ):
        predict(given(pretrained, images))
    torch.save(official(), tmp_path / "encoder.pth")
    with pytest.raises(
        ConfigError, match=r"\(timm\) has no classifier's head; give fine-tuned weights"
    ):
        predict(given(tmp_path / "encoder.pth", images, heads=4))
    with pytest.raises(
        ConfigError, match=r"checkpoint=.*nowhere: no such file or folder"
    ):
        predict(given(tmp_path / "nowhere", images))
    with pytest.raises(ConfigError, match=r"images=.*nowhere: no such file or folder"):
        predict(given(stage(ledger, "finetune"), tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no images in it \(.bmp"):
        predict(given(stage(ledger, "finetune"), tmp_path / "empty"))
    (tmp_path / "two.txt").write_text("a\nb")
    with pytest.raises(
        ConfigError, match=r"two.txt has 2 lines, the checkpoint 3 classes"
    ):
        predict(
            given(stage(ledger, "finetune"), images, classes=str(tmp_path / "two.txt"))
        )


def test_files_that_are_no_images_are_named_and_the_rest_is_predicted(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(place[0] / "cat", tmp_path / "mixed")
    (tmp_path / "mixed" / "000.png").write_bytes(b"nothing")
    (tmp_path / "mixed" / "notes.txt").write_text("not listed")
    folder = stage(place[1], "finetune")
    found, whole = (
        predict(given(folder, tmp_path / "mixed")),
        predict(given(folder, place[0] / "cat")),
    )
    assert len(found.faults) == 1
    assert "mixed/000.png cannot be read as an image" in found.faults[0]
    assert found.names == whole.names[1:]
    torch.testing.assert_close(
        found.probabilities_NK, whole.probabilities_NK[1:], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(
        ValueError,
        match=r"(?s)000.png cannot be read.*none of 1 files can be read as an image",
    ):
        predict(given(folder, tmp_path / "mixed" / "000.png"))


@pytest.mark.parametrize("head", ["fc_norm", "cls", "probe"])
def test_fine_tuned_weights_of_others(
    head: str, place: tuple[Path, Path], tmp_path: Path
) -> None:
    """The official port's, and through ours the other layouts: the same probabilities."""
    path = saved(tmp_path / "official.pth", official(head=head))
    first = predict(given(path, place[0], heads=4, count=6))
    assert first.classes == ("0", "1", "2", "3", "4")
    ready = load_ready(path, Hints(heads=4), None, None)
    assert (ready.form.shape, ready.form.eval_crop, ready.form.mean) == (
        (8, 8),
        0.875,
        (0.485, 0.456, 0.406),
    )
    weights, _ = read(path, Hints(heads=4))
    for layout in ("timm", "safetensors", *(("hf",) if head != "fc_norm" else ())):
        write(weights, tmp_path / layout, layout)
        again = predict(given(tmp_path / layout, place[0], heads=4, count=6))
        torch.testing.assert_close(
            again.probabilities_NK, first.probabilities_NK, rtol=1e-4, atol=1e-6
        )
        assert again.classes[1] == ("LABEL_1" if layout == "hf" else "1")


def test_the_table_is_cut_and_the_csv_is_whole(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    found = predict(given(stage(place[1], "finetune"), place[0], top=2))
    shown = io.StringIO()
    Console(width=160, file=shown).print(table(found, 20))
    assert sum(".png" in line for line in shown.getvalue().splitlines()) == 20
    odd = os.fsdecode(b"\xff.png")  # no UTF-8
    other = replace(found, names=(odd, *found.names[1:]))
    write_csv(other, tmp_path / "all.csv")
    assert b"\n\xff.png," in (tmp_path / "all.csv").read_bytes()
    Console(width=160, file=shown).print(table(other, 1))
    assert shown.getvalue().encode().count(b"udcff.png") == 1
    write_csv(found, tmp_path / "all.csv")
    rows = list(csv.reader((tmp_path / "all.csv").open()))
    assert rows[0] == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert len(rows) == 91
    assert float(rows[1][2]) == pytest.approx(found.rows()[0][0][1], abs=1e-6)


@pytest.mark.process
def test_the_command(place: tuple[Path, Path], tmp_path: Path) -> None:
    images, ledger = place
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
    ("typed", "said"),
    [
        (("images=/tmp",), "checkpoint: missing; give a classifier"),
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
    typed: tuple[str, ...], said: str
) -> None:
    done = call(*typed, script="predict.py", tiny=False)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (
        2,
        True,
        False,
    ), done.stderr
