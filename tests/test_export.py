"""Exported weights carry what is known of them, and the line that loads them elsewhere."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open

from foreign_weights import (
    HINTS,
    TINY,
    B,
    build_weights,
    official_state,
    random_images,
    save_official,
)
from small_runs import raw_config, run
from unmask.config.checks import check
from unmask.exchange.facts import Facts
from unmask.exchange.load_into_model import load_encoder
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry, Stack
from unmask.exchange.weights import build_encoder
from unmask.exchange.write import write_weights
from unmask.heads import Classifier, Features
from unmask.training import build

FACTS = Facts(
    target="pixel_norm",
    mask_ratio=0.5,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    eval_crop=0.875,
    license="mit",
)


def exported(folder: Path) -> dict[str, Any]:
    return {p.name: json.loads(p.read_text()) for p in folder.glob("*.json")}


def test_a_hugging_face_folder_has_every_fact_that_it_has_a_place_for(
    tmp_path: Path,
) -> None:
    weights = replace(build_weights(TINY), facts=FACTS)
    report = write_weights(weights, tmp_path / "hf", "hf")
    files = exported(tmp_path / "hf")
    config = files["config.json"]
    assert (config["norm_pix_loss"], config["mask_ratio"]) == (True, 0.5)
    preprocessor = files["preprocessor_config.json"]
    assert preprocessor["image_mean"] == [0.1, 0.2, 0.3]
    assert preprocessor["image_std"] == [0.4, 0.5, 0.6]
    assert preprocessor["crop_size"] == {"height": 8, "width": 8}
    assert preprocessor["size"] == {"shortest_edge": 9}
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert report.load == (
        f"transformers.ViTMAEForPreTraining.from_pretrained('{tmp_path / 'hf'}')"
    )
    again, _ = read_weights(tmp_path / "hf")
    # the crop is in the sizes of the preprocessor, not in a key
    assert again.facts == replace(FACTS, eval_crop=None)


@pytest.mark.parametrize("layout", ["safetensors", "timm", "official"])
def test_facts_go_out_and_come_back(layout: Any, tmp_path: Path) -> None:
    path = tmp_path / ("mae.pth" if layout == "official" else "mae.safetensors")
    write_weights(replace(build_weights(TINY), facts=FACTS), path, layout)
    assert read_weights(path)[0].facts == FACTS
    if layout != "official":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        assert metadata["license"] == "mit"
        assert json.loads(metadata["mean"]) == [0.1, 0.2, 0.3]
        assert str(tmp_path) not in metadata["load"]


def test_a_checkpoint_says_target_ratio_and_statistics(tmp_path: Path) -> None:
    """What the other side computes as the loss follows from them."""
    run(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        "target=pixel_norm",
        "mask_ratio=0.5",
    )
    weights, _ = read_weights(next(tmp_path.glob("pretrain/*")))
    facts = weights.facts
    assert (facts.target, facts.mask_ratio) == ("pixel_norm", 0.5)
    write_weights(weights, tmp_path / "hf", "hf")
    files = exported(tmp_path / "hf")
    assert files["config.json"]["norm_pix_loss"] is True
    assert files["config.json"]["mask_ratio"] == 0.5
    assert files["preprocessor_config.json"]["image_mean"] == list(facts.mean or ())


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_official_codes_arguments_are_facts(
    norm_pix_loss: bool, tmp_path: Path
) -> None:
    arguments = argparse.Namespace(
        norm_pix_loss=norm_pix_loss, mask_ratio=0.6, input_size=8
    )
    path = save_official(
        tmp_path / "mae.pth", official_state(decoder=True), args=arguments
    )
    weights, report = read_weights(path, HINTS)
    expected = "pixel_norm" if norm_pix_loss else "pixel"
    assert (weights.facts.target, weights.facts.mask_ratio) == (expected, 0.6)
    # input_size is 4 x 4 patches of 2 pixels: no guess
    assert not any("taken for" in note for note in report.notes)


def test_what_nobody_knows_is_said(tmp_path: Path) -> None:
    weights, _ = read_weights(
        save_official(tmp_path / "mae.pth", official_state(decoder=True), args=None),
        HINTS,
    )
    text = " ".join(write_weights(weights, tmp_path / "hf", "hf").notes)
    for words in ("add target=pixel", "ImageNet's are written", "add license=NAME"):
        assert words in text
    assert "norm_pix_loss" not in exported(tmp_path / "hf")["config.json"]


NON_SQUARE = Geometry(4, 2, (2, 5), Stack(32, 2, 4, 2.5), None)


@torch.no_grad()
@pytest.mark.parametrize(
    "geometry", [TINY, NON_SQUARE, replace(B, decoder=None)], ids=["tiny", "odd", "B"]
)
def test_the_line_for_timm_builds_the_model_with_equal_features(
    geometry: Geometry, tmp_path: Path
) -> None:
    weights = build_weights(geometry)
    path = tmp_path / "vit.safetensors"
    line = write_weights(weights, path, "timm").load
    theirs = eval(line, {"timm": timm}).eval()
    encoder = build_encoder(geometry).eval()
    load_encoder(encoder, weights)
    images = random_images(geometry, 2)
    torch.testing.assert_close(
        encoder(images), theirs.forward_features(images), rtol=1e-4, atol=2e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_norm"])
def test_a_probes_logits_are_timms_whatever_it_pools(pool: Any, tmp_path: Path) -> None:
    overrides = (f"linear_probe.pool={pool}", "data.patch_size=14")
    config = check(raw_config(*overrides))
    features = Features(build.build_encoder(config, seed=3), pool)
    ours = Classifier(features, 10, probe=True, seed=0).eval()
    ours.norm.running_mean += torch.randn(16)
    content = {
        "state_dict": {f"model.{name}": v for name, v in ours.state_dict().items()},
        "unmask": {"stage": "linear_probe", "config": config.to_dict()},
    }
    torch.save(content, tmp_path / "probe.ckpt")
    weights, _ = read_weights(tmp_path / "probe.ckpt")
    line = write_weights(weights, tmp_path / "vit.pth", "timm").load
    theirs = eval(line, {"timm": timm}).eval()
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_hugging_faces_processor_normalises_as_evaluation_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    facts = replace(FACTS, eval_crop=1.0)
    write_weights(replace(build_weights(TINY), facts=facts), tmp_path / "hf", "hf")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    image_HWC = torch.randint(256, (8, 8, 3), dtype=torch.uint8).numpy()
    pixels = processor(image_HWC, return_tensors="pt")["pixel_values"][0]
    mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
    expected = (torch.tensor(image_HWC) / 255 - mean) / std
    torch.testing.assert_close(pixels, expected.permute(2, 0, 1), rtol=1e-5, atol=1e-5)
