"""Weights of other projects give equal features here; round trips change no bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from foreign_weights import (
    FULL_B,
    HINTS,
    TINY,
    B,
    H,
    L,
    build_encoder,
    build_mae,
    build_weights,
    equal_tensors,
    loaded_completely,
    official_state,
    random_images,
    random_tensors,
    save_official,
)
from unmask.exchange.load_into_model import load_classifier, load_encoder, load_mae
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry, Stack
from unmask.exchange.write import WritableLayout, write_weights
from unmask.heads import Classifier, Features, FineTuneFeatures
from unmask.masking import Masking


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("vit_base_patch16_224", B),
        ("vit_large_patch16_224", L),
        ("vit_huge_patch14_224", H),
        ("vit_base_patch16_224", FULL_B),
    ],
    ids=["B", "L", "H", "B in full depth"],
)
def test_features_match_timms_vit(
    name: str, geometry: Geometry, tmp_path: Path
) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, depth=geometry.encoder.depth, num_classes=0)
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.load_state_dict(
        random_tensors({n: v.shape for n, v in theirs.state_dict().items()})
    )
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    weights, _ = read_weights(tmp_path / "vit.safetensors")
    assert (weights.layout, weights.geometry.encoder) == ("timm", geometry.encoder)
    ours = build_encoder(geometry)
    load_encoder(ours, weights)
    images = random_images(geometry)
    torch.testing.assert_close(
        ours(images), theirs.forward_features(images), rtol=1e-4, atol=2e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("geometry", [B, L, H], ids=["B", "L", "H"])
def test_predictions_match_hugging_faces_mae(
    geometry: Geometry, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    weights = build_weights(geometry)
    write_weights(weights, tmp_path / "hf", "hf")
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert loaded_completely(info)
    ours = build_mae(geometry)
    load_mae(ours, weights)
    images, patches = random_images(geometry), geometry.grid[0] * geometry.grid[1]
    noise = torch.rand(1, patches, generator=torch.Generator().manual_seed(2))
    there = theirs.eval()(images, noise=noise)
    order = noise.argsort(dim=1)
    kept = round(patches * 0.25)
    masking = Masking(order[:, :kept], order[:, kept:], there.mask.bool())
    expected = there.logits.take_along_dim(masking.hidden_BM[:, :, None], dim=1)
    torch.testing.assert_close(ours(images, masking), expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("head", "pool"), [("fc_norm", "avg"), ("cls", "token"), ("probe", "token")]
)
def test_logits_of_official_classifiers_match_timms(
    head: str, pool: str, tmp_path: Path
) -> None:
    weights, _ = read_weights(
        save_official(tmp_path / "tuned.pth", official_state(head=head)), HINTS
    )
    write_weights(weights, tmp_path / "timm.safetensors", "timm")
    theirs = timm.create_model(
        "vit_base_patch16_224",
        img_size=8,
        patch_size=2,
        embed_dim=32,
        depth=2,
        num_heads=4,
        num_classes=5,
        global_pool=pool,
        checkpoint_path=tmp_path / "timm.safetensors",
    )
    features = Features if head == "probe" else FineTuneFeatures
    ours = Classifier(
        features(build_encoder(TINY), weights.pool), 5, probe=head == "probe", seed=0
    ).eval()
    report = load_classifier(ours, weights)
    assert set(report.missing) == (
        {"encoder.norm.weight", "encoder.norm.bias"} if head == "fc_norm" else set()
    )
    images = random_images(TINY, 3)
    torch.testing.assert_close(
        ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("head", ["cls", "probe"])
def test_logits_match_hugging_faces_classifier(head: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights, _ = read_weights(
        save_official(tmp_path / "tuned.pth", official_state(head=head)), HINTS
    )
    write_weights(weights, tmp_path / "hf", "hf")
    theirs, info = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert loaded_completely(info)
    features = Features if head == "probe" else FineTuneFeatures
    ours = Classifier(
        features(build_encoder(TINY), "cls"), 5, probe=head == "probe", seed=0
    ).eval()
    load_classifier(ours, weights)
    images = random_images(TINY, 3)
    torch.testing.assert_close(
        ours(images), theirs.eval()(images).logits, rtol=1e-4, atol=1e-5
    )


def test_official_to_ours_to_hugging_face_to_timm_to_ours_changes_no_bit(
    tmp_path: Path,
) -> None:
    before, _ = read_weights(
        save_official(tmp_path / "mae.pth", official_state(decoder=True)), HINTS
    )
    write_weights(before, tmp_path / "ours.safetensors", "safetensors")
    ours, _ = read_weights(tmp_path / "ours.safetensors")
    write_weights(ours, tmp_path / "hf", "hf")
    hub, _ = read_weights(tmp_path / "hf")
    assert equal_tensors(hub.decoder, before.decoder)
    report = write_weights(hub, tmp_path / "timm.pth", "timm")
    assert set(report.dropped) == {f"decoder.{name}" for name in before.decoder or {}}
    after, _ = read_weights(tmp_path / "timm.pth")
    assert equal_tensors(after.encoder, before.encoder)
    assert after.geometry.encoder == before.geometry.encoder
    write_weights(hub, tmp_path / "again.pth", "official")
    state = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert equal_tensors(state, official_state(decoder=True))


@pytest.mark.parametrize("head", ["norm", "fc_norm", "cls", "probe"])
@pytest.mark.parametrize("layout", ["safetensors", "official"])
def test_every_kind_of_weights_survives_a_round_trip(
    head: str, layout: WritableLayout, tmp_path: Path
) -> None:
    before, _ = read_weights(
        save_official(tmp_path / "in.pth", official_state(head=head)), HINTS
    )
    write_weights(before, tmp_path / "out", layout)
    after, report = read_weights(tmp_path / "out")
    assert equal_tensors(before.named_tensors(), after.named_tensors())
    assert (after.geometry, after.pool) == (before.geometry, before.pool)
    assert len(report.matched) + len(report.reshaped) == len(after.named_tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_loads(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in official_state().items()}
    weights, _ = read_weights(save_official(tmp_path / "half.pth", state), HINTS)
    write_weights(weights, tmp_path / "timm.safetensors", "timm")
    assert equal_tensors(load_file(tmp_path / "timm.safetensors"), state)
    encoder = build_encoder(TINY)
    load_encoder(encoder, weights)
    assert encoder.cls_token.equal(state["cls_token"].float())


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("layout", ["official", "timm", "hf", "safetensors"])
def test_any_channels_patches_of_14_and_a_grid_that_is_no_square(
    channels: int, layout: WritableLayout, tmp_path: Path
) -> None:
    for decoder in (None, Stack(16, 1, 2, 4.0)):
        before = build_weights(
            Geometry(channels, 14, (2, 3), Stack(32, 1, 4, 3.0), decoder)
        )
        if layout == "hf" and decoder:
            with pytest.raises(
                ValueError, match=r"ViTMAE decodes square grids only, not 2 x 3"
            ):
                write_weights(before, tmp_path / "mae", layout)
            continue
        write_weights(before, tmp_path / str(decoder), layout)
        after, _ = read_weights(tmp_path / str(decoder))
        assert equal_tensors(before.encoder, after.encoder)
        assert after.geometry == (
            before.geometry
            if layout != "timm"
            else replace(before.geometry, decoder=None)
        )


def test_an_mlp_ratio_that_is_no_round_number_keeps_its_width(tmp_path: Path) -> None:
    sizes = Geometry(3, 2, (2, 2), Stack(1152, 1, 16, 4304 / 1152), None)
    write_weights(build_weights(sizes), tmp_path / "out", "safetensors")
    weights, _ = read_weights(tmp_path / "out")
    assert weights.encoder["blocks.0.mlp.fc1.weight"].shape == (4304, 1152)
