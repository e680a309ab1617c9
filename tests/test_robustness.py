"""A finished classifier on corrupted images and on other sets of its classes."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from small_runs import image_folder, plan_for, run
from unmask.config.checks import ConfigError
from unmask.data.augment.corruptions import CORRUPTIONS, corrupt
from unmask.data.loading.module import EvaluationData
from unmask.randomness import make_key
from unmask.storage import checkpoints
from unmask.storage.metrics_log import append_row
from unmask.tasks.features import Corruption, is_correct
from unmask.training import robustness
from unmask.training.classifiers import classifier_from_checkpoint
from unmask.training.robustness import imagenet_c_error
from unmask.training.run import Run

DIGITS = (
    "stages=[robustness]",
    "labels=200",
    "finetune.epochs=3",
    "finetune.base_lr=0.01",
    "robustness.images=100",
)


def shade_folders(
    root: Path, names: str, brightness: dict[str, int], count: int = 4
) -> Path:
    """Class folders of uniform images: the brightness tells the class."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((16, 16, 3), brightness[name] + i, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    runs = tmp_path_factory.mktemp("runs")
    result = run(f"runs_dir={runs}", *DIGITS, "robustness.severities=[1,5]")[-1]
    return (
        runs,
        result,
        pd.read_csv(runs / "robustness" / result["fingerprint"] / "robustness.csv"),
    )


def test_every_corruption_and_severity_is_measured_beside_the_clean_images(
    measured,
) -> None:
    _, result, table = measured
    assert len(table) == 1 + 15 * 2
    assert set(table["name"]) == {"clean", *CORRUPTIONS}
    assert set(table["images"]) == {100} == {result["images"]}
    changed = table[table["severity"] > 0]["accuracy"]
    assert result["metrics"]["val/accuracy"] == pytest.approx(changed.mean())
    assert (
        result["metrics"]["val/clean_accuracy"]
        == table[table["severity"] == 0]["accuracy"].item()
    )
    assert result["title"] == "robustness of finetune"


def test_an_accuracy_is_that_of_the_corrupted_images_through_the_finished_classifier(
    measured,
) -> None:
    """Written out: corrupt, normalise, classify, count."""
    runs, _, table = measured
    plan = plan_for(f"runs_dir={runs}", *DIGITS, "robustness.severities=[1,5]")
    _, val = Run(plan, Console(file=io.StringIO())).splits
    ids = torch.linspace(0, len(val) - 1, 100).long()
    path = checkpoints.newest(next((runs / "finetune").iterdir()) / "checkpoints")
    assert path is not None
    content = checkpoints.load(path)
    model = classifier_from_checkpoint(
        path, content["unmask"], content["state_dict"]
    ).model
    images = corrupt(
        val.images_NCHW[ids], "contrast", 5, make_key(0, "corruption"), ids
    )  # type: ignore[union-attr]
    with torch.no_grad():
        predicted = model((images.float() / 255 - 0.1307) / 0.3081).argmax(dim=1)
    expected = 100 * (predicted == val.labels_N[ids]).double().mean().item()
    row = table[(table["name"] == "contrast") & (table["severity"] == 5)]
    assert row["accuracy"].item() == pytest.approx(expected)


def test_corruption_hurts_and_more_of_it_more(measured) -> None:
    table = measured[2].groupby("severity")["accuracy"].mean()
    assert table[0] > table[1] > table[5]


def test_an_interrupted_stage_goes_on_at_the_next_set_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        *DIGITS,
        "robustness.corruptions=[fog,contrast]",
        "robustness.severities=[3]",
    )
    original, done = robustness.measure_set, []

    def interrupted(stage: Any, model: Any, image_set: Any) -> dict[str, Any]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(image_set.name)
        return original(stage, model, image_set)

    with monkeypatch.context() as patch:
        patch.setattr(robustness, "measure_set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*overrides)
    done.clear()
    monkeypatch.setattr(robustness, "measure_set", interrupted)
    result = run(*overrides)[-1]
    assert done == ["contrast"]
    assert result["metrics"]["val/clean_accuracy"] > 0


def test_only_classes_of_the_folder_are_answers() -> None:
    """As for ImageNet-A and -R: the best of their 200 classes, not of 1,000."""
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]])
    assert is_correct(logits, torch.tensor([1, 2]), (1, 2)).tolist() == [1, 0]
    assert is_correct(logits, torch.tensor([1, 2]), (0, 1, 2)).tolist() == [0, 0]


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """Three classes that a classifier tells apart, and its run's overrides."""
    root = tmp_path_factory.mktemp("shades")
    brightness = {"a": 20, "b": 120, "c": 220}
    data = shade_folders(root / "data", "abc", brightness, count=20)
    overrides = (
        f"runs_dir={root / 'runs'}",
        "data=image_folder",
        f"data.root={data}",
        "data.image_size=16",
        "data.patch_size=4",
        "stages=[robustness]",
        "finetune.epochs=30",
        "finetune.batch_size=20",
        "finetune.base_lr=0.05",
        "data.num_workers=0",
    )
    shade_folders(root / "other", "ac", brightness)
    for name in ("fog", "snow"):
        shade_folders(root / "corrupted" / name / "2", "abc", brightness)
    return root, overrides


def test_a_folder_of_some_of_the_classes_is_measured_among_these(shades) -> None:
    root, overrides = shades
    result = run(
        *overrides, "robustness=imagenet_a", f"robustness.root={root / 'other'}"
    )[-1]
    assert result["images"] == 8
    assert result["metrics"]["val/accuracy"] == 100
    assert "val/mce" not in result["metrics"]


def test_each_of_several_sets_is_the_stage_that_it_would_be_alone(shades) -> None:
    """One command measures all; a set that is typed alone later is in the ledger."""
    root, overrides = shades
    several = f"robustness.sets=[{root / 'other'},{root / 'corrupted/fog/2'},corrupted]"
    clean, other, fog, corrupted = run(
        *overrides,
        "robustness=folders",
        several,
        "robustness.corruptions=[fog]",
        "robustness.severities=[1]",
    )[1:]
    assert [each["title"] for each in (other, fog, corrupted)] == [
        "robustness of finetune, other",
        "robustness of finetune, 2",
        "robustness of finetune",
    ]
    assert (other["images"], fog["images"]) == (8, 12)
    assert corrupted["metrics"]["val/clean_accuracy"] == pytest.approx(
        clean["metrics"]["val/accuracy"]
    )
    chosen = ("robustness.corruptions=[fog]", "robustness.severities=[1]")
    (alone,) = [
        plan_for(
            *overrides, *chosen, "robustness=imagenet_a", f"robustness.root={folder}"
        ).stages[-1]
        for folder in (root / "other",)
    ]
    assert alone.fingerprint == other["fingerprint"]
    kept = yaml.safe_load(
        (root / "runs" / "robustness" / alone.fingerprint / "config.yaml").read_text()
    )
    assert kept["config"]["robustness"]["root"] == str(root / "other")
    assert kept["config"]["robustness"]["sets"] is None


def test_images_of_other_classes_are_refused_or_left_out(
    shades, tmp_path: Path
) -> None:
    root, overrides = shades
    other = shutil.copytree(root / "other", tmp_path / "wild" / "val")
    image_folder(other, classes=("zebra",))
    # the same images would be the same stage, whatever their folder is called
    (other / "a" / "0.png").unlink()
    typed = (*overrides, "robustness=folders", f"robustness.sets=[{other}]")
    with pytest.raises(ConfigError, match=r"10 images of other classes.*: zebra"):
        plan_for(*typed, "robustness.unknown_classes=refuse")
    result = run(*typed)[-1]
    assert (result["images"], result["title"]) == (
        7,
        "robustness of finetune, wild/val",
    )
    assert result["metrics"]["val/accuracy"] == 100
    shutil.rmtree(other / "a")
    shutil.rmtree(other / "c")
    with pytest.raises(ConfigError, match=r"10 images of other classes"):
        plan_for(*typed)


def test_sets_that_tables_could_not_tell_apart_are_refused(
    shades, tmp_path: Path
) -> None:
    root, overrides = shades
    same = shutil.copytree(root / "other", tmp_path / "other")
    for typed, message in (
        ((f"robustness.sets=[{same},{root / 'other'}]",), "would both be called other"),
        ((f"robustness.sets=[{same},{same}]",), "names a set twice"),
        ((f"robustness.sets=[{same}]", f"robustness.root={same}"), "root=null"),
        ((f"robustness.sets=[{same}/a]",), "16 images|4 images"),
        (("robustness.sets=[/not/here]",), "/not/here is no folder"),
        (("robustness=imagenet_c", f"robustness.sets=[{same}]"), "robustness=folders"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_for(*overrides, *typed)


def test_an_image_that_cannot_be_read_counts_neither_as_right_nor_as_wrong(
    shades, tmp_path: Path
) -> None:
    root, overrides = shades
    other = shutil.copytree(root / "other", tmp_path / "other")
    (other / "a" / "1.png").write_bytes(b"")
    result = run(*overrides, "robustness=imagenet_a", f"robustness.root={other}")[-1]
    assert (
        result["images"],
        result["bad_images"],
        result["metrics"]["val/accuracy"],
    ) == (7, 1, 100)


def test_folders_of_corrupted_images_are_read_in_imagenet_cs_layout(shades) -> None:
    root, overrides = shades
    chosen = ("robustness.corruptions=[fog,snow]", "robustness.severities=[2]")
    result = run(
        *overrides,
        "robustness=imagenet_c",
        f"robustness.root={root / 'corrupted'}",
        *chosen,
    )[-1]
    table = pd.read_csv(
        root / "runs" / "robustness" / result["fingerprint"] / "robustness.csv"
    )
    assert result["title"] == "robustness of finetune, corrupted"
    assert list(table["name"]) == ["fog", "snow"]
    assert list(table["images"]) == [12, 12]


def test_imagenet_c_is_not_cropped_again_and_must_be_whole(
    shades, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are centre crops already; a folder with fewer images than the others is half unpacked."""
    root, overrides = shades
    seen = []
    original = EvaluationData.__init__

    def recording(self: EvaluationData, views: Any, *more: Any) -> None:
        seen.append(views.image_format.eval_crop)
        original(self, views, *more)

    monkeypatch.setattr(EvaluationData, "__init__", recording)
    (root / "corrupted" / "snow" / "2" / "c" / "0.png").unlink()
    chosen = (
        "robustness=imagenet_c",
        f"robustness.root={root / 'corrupted'}",
        "robustness.corruptions=[snow,fog]",
    )
    with pytest.raises(ValueError, match=r"robustness.root = .* 11 to 12 images"):
        run(*overrides, *chosen, "robustness.severities=[2]", "data.eval_crop=0.5")
    assert seen == [1.0, 1.0]


def test_mce_needs_all_of_imagenet_c() -> None:
    """With AlexNet's own errors it is 100 %."""
    from unmask.training.corruption_error import ALEXNET_ERRORS

    recipe = plan_for(*DIGITS).config.robustness.model_copy(
        update={"source": "corrupted_folders", "images": None}
    )
    rows = [
        {"name": n, "severity": s, "accuracy": 100 * (1 - e)}
        for n, e in ALEXNET_ERRORS.items()
        for s in range(1, 6)
    ]
    whole = pd.DataFrame(rows)
    assert imagenet_c_error(recipe, 1000, whole) == {"val/mce": pytest.approx(100)}
    assert imagenet_c_error(recipe, 1000, pd.DataFrame(rows[:-1])) == {}
    sample = recipe.model_copy(update={"images": 100})
    assert imagenet_c_error(sample, 1000, whole) == {}, (
        "a sample of the images is not the benchmark"
    )
    assert imagenet_c_error(recipe, 10, whole) == {}, "ten classes are not ImageNet's"


def test_missing_folders_and_classes_are_refused_before_anything_starts(
    shades, tmp_path: Path
) -> None:
    root, overrides = shades
    with pytest.raises(
        ConfigError, match=r"robustness.root: robustness.source=folder needs the folder"
    ):
        plan_for(*overrides, "robustness=imagenet_r")
    with pytest.raises(
        ConfigError,
        match=r"robustness.root = .*gaussian_noise/1 is missing \(73 of 75",
    ):
        plan_for(
            *overrides, "robustness=imagenet_c", f"robustness.root={root / 'corrupted'}"
        )
    image_folder(tmp_path, classes=("zebra",))
    with pytest.raises(
        ConfigError,
        match=r"10 images of other classes.*zebra.*unknown_classes=leave_out",
    ):
        plan_for(
            *overrides, "robustness=imagenet_sketch", f"robustness.root={tmp_path}"
        )


def test_a_corruption_of_an_image_is_the_same_in_any_batch() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    change, ids = (
        Corruption("gaussian_noise", 3, make_key(0, "corruption")),
        torch.arange(4),
    )
    assert torch.equal(change(images, 0, ids)[2:], change(images[2:], 0, ids[2:]))


def test_a_line_of_the_log_that_was_cut_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text('{"name": "fog", "sev')
    append_row(path, {"name": "fog", "severity": 1})
    assert path.read_text().count("\n") == 2
