"""What differs from the defaults of the chosen groups, as a user would type it."""

from typing import Any

import pytest

from small_runs import composer
from unmask.config.checks import fill_missing_roots, validate
from unmask.config.conf_files import CONF
from unmask.config.dials import format_value, read_dials
from unmask.config.schema import Config

PLACEHOLDERS = ("data.root", "robustness.root")
# sets of images in folders of one layout: the same values in all files
SAME_FILES = ("imagenet_r", "imagenet_sketch")
DEFAULTS = {
    "model": "mae_vit_nano",
    "data": "mnist5k",
    "masking": "random",
    "target": "pixel",
    "augment": "none",
    "tokenizer": "small",
    "pretrain": "small",
    "linear_probe": "small",
    "knn": "k20",
    "attentive_probe": "small",
    "finetune": "few_labels",
    "partial_finetune": "as_finetune",
    "scratch": "as_finetune",
    "robustness": "corrupted",
}
CHOICES = [
    (group, path.stem)
    for group in DEFAULTS
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem not in SAME_FILES
]


def dials(*overrides: str) -> dict[str, Any]:
    raw = fill_missing_roots(composer(list(overrides)))
    values = read_dials(validate(Config, raw).to_dict()).values
    return {key: value for key, value in values.items() if key not in PLACEHOLDERS}


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_of_a_group_is_one_dial(group: str, name: str) -> None:
    expected = {} if name == DEFAULTS[group] else {group: name}
    assert dials(f"{group}={name}") == expected


@pytest.mark.parametrize(
    "scale", ["embedded", "embedded_exact", "photos", "photos_jpeg", "cifar", "paper"]
)
def test_a_scale_is_one_dial(scale: str) -> None:
    assert dials(f"scale={scale}") == {"scale": scale}


def test_values_are_dials_under_the_names_that_were_typed() -> None:
    typed = ["seed=1", "mask_ratio=0.9", "model=mae_vit_b", "decoder.depth=4"]
    assert dials(*typed, "pretrain.epochs=7", "data.image_size=32") == {
        "model": "mae_vit_b",
        "seed": 1,
        "mask_ratio": 0.9,
        "decoder.depth": 4,
        "data.image_size": [32, 32],
        "pretrain.epochs": 7,
    }


def test_a_value_that_was_typed_and_is_the_default_is_no_dial() -> None:
    assert dials("mask_ratio=0.75", "finetune.labels=null") == {}


def test_values_that_follow_another_one_are_named_by_that_one() -> None:
    # finetune.labels and scratch.labels follow labels, and scratch follows finetune
    assert dials("labels=1000", "finetune.epochs=5") == {
        "labels": 1000,
        "finetune.epochs": 5,
    }


def test_a_value_of_a_scale_is_no_dial_and_another_value_is() -> None:
    assert dials("scale=embedded", "pretrain.epochs=32") == {"scale": "embedded"}
    assert dials("scale=embedded", "pretrain.epochs=30") == {
        "scale": "embedded",
        "pretrain.epochs": 30,
    }


def test_keys_that_a_config_of_an_earlier_version_lacks_are_no_dials() -> None:
    config = validate(Config, composer([])).to_dict()
    del config["positions"], config["decoder"]["mlp_ratio"]
    assert read_dials(config).values == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9"),
        (True, "true"),
        (None, "null"),
        ([32, 32], "32"),
        ([32, 48], "[32,48]"),
        ("mae_vit_b", "mae_vit_b"),
        (0.004, "0.004"),
    ],
)
def test_a_value_is_written_as_it_is_typed(value: Any, text: str) -> None:
    assert format_value(value) == text
