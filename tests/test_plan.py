"""Which stages a config means, in which order, and what is refused before anything starts."""

from pathlib import Path

import pytest

from small_runs import image_folder, plan_for
from unmask.config.checks import ConfigError


def titles(*overrides: str) -> list[str]:
    return [spec.title for spec in plan_for(*overrides, tiny=False).stages]


def test_each_measurement_is_followed_by_its_controls() -> None:
    assert titles("stages=[pretrain,knn]") == [
        "pretrain",
        "kNN",
        "kNN, random encoder",
        "kNN, raw pixels",
    ]


def test_scratch_is_the_control_of_fine_tuning() -> None:
    assert titles("stages=[finetune,scratch]") == [
        "pretrain",
        "fine-tune",
        "fine-tune, raw pixels",
        "scratch",
    ]


def test_a_measurement_is_preceded_by_its_pretraining() -> None:
    assert titles("stages=[knn]", "controls=[]") == ["pretrain", "kNN"]


def test_scratch_alone_pretrains_nothing() -> None:
    assert titles("stages=[scratch]") == ["scratch"]


def test_a_stage_named_twice_runs_once() -> None:
    assert titles("stages=[pretrain,pretrain,knn,knn]", "controls=[]") == [
        "pretrain",
        "kNN",
    ]


def test_unlabelled_images_allow_pretraining_only(tmp_path: Path) -> None:
    image_folder(tmp_path, classes=("heap",))
    flat = tmp_path / "heap"
    common = ("data=image_folder", f"data.root={flat}", "data.image_size=16")
    assert titles(*common, "stages=[pretrain]") == ["pretrain"]
    with pytest.raises(
        ConfigError, match=r"knn, scratch need labels.*stages=\[pretrain\]"
    ):
        titles(*common, "stages=[pretrain,knn,scratch]")


def test_more_labels_than_a_class_has_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, per_class=10)
    common = (
        "data=image_folder",
        f"data.root={tmp_path}",
        "data.image_size=16",
        "stages=[scratch]",
    )
    with pytest.raises(ConfigError, match=r"labels=40 .* at most labels=18"):
        titles(*common, "labels=40")


def test_fewer_labels_than_classes_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"labels=3: finetune needs at least one label of each of 10 classes",
    ):
        titles("stages=[finetune]", "labels=3")
