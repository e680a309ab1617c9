"""Weights are loaded strictly: only the grid may differ."""

from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from foreign_weights import (
    HINTS,
    TINY,
    build_encoder,
    build_mae,
    build_weights,
    equal_tensors,
    official_state,
    save_official,
)
from unmask.exchange.load_into_model import (
    load_classifier,
    load_encoder,
    load_mae,
    resample_positions,
)
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry, Stack
from unmask.exchange.write import write_weights
from unmask.heads import Classifier, FineTuneFeatures
from unmask.patches import sincos_2d

GRIDS = [(7, 7), (2, 8), (5, 3), (4, 4)]


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_on_another_grid_are_timms_where_it_is_asked_for(
    grid: tuple[int, int],
) -> None:
    positions = torch.randn(1, 17, 32)
    ours = resample_positions(positions, (4, 4), grid, "timm")
    theirs = resample_abs_pos_embed(positions, list(grid), [4, 4], num_prefix_tokens=1)
    assert ours.equal(theirs)
    assert ours.shape == (1, 1 + grid[0] * grid[1], 32)
    assert ours[:, :1].equal(positions[:, :1])
    assert ours.equal(positions) is (grid == (4, 4))


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_on_another_grid_are_hugging_faces_bit_for_bit(
    grid: tuple[int, int],
) -> None:
    """transformers' ViTMAE resamples as the official interpolate_pos_embed does."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.ViTConfig(image_size=8, patch_size=2, **sizes)
    theirs = transformers.ViTModel(config).embeddings
    positions = torch.randn(1, 17, 32)
    theirs.position_embeddings.data = positions
    expected = theirs.interpolate_pos_encoding(
        torch.empty(1, 1 + grid[0] * grid[1], 32), 2 * grid[0], 2 * grid[1]
    )
    assert resample_positions(positions, (4, 4), grid, "port").equal(expected)


@pytest.mark.parametrize("side", [2, 4, 7, 12])
def test_positions_on_another_square_grid_are_the_official_codes(side: int) -> None:
    """Its formula, on the sine-cosine positions of MAE, to the last bit."""
    positions = sincos_2d(32, (4, 4))[None]
    image = positions[:, 1:].reshape(-1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        image, size=(side, side), mode="bicubic", align_corners=False
    )
    expected = resized.permute(0, 2, 3, 1).flatten(1, 2)
    ours = resample_positions(positions, (4, 4), (side, side), "port")
    assert ours[:, 1:].equal(expected)


def test_only_the_grid_may_differ_and_the_report_says_so() -> None:
    weights = build_weights(TINY)
    encoder = build_encoder(TINY, grid=(6, 5))
    report = load_encoder(encoder, weights)
    assert report.reshaped == {
        "encoder.pos_embed": "(1, 17, 32) -> (1, 31, 32), resampled as by port"
    }
    assert "encoder.cls_token" in report.matched
    same_grid = build_encoder(TINY)
    assert not load_encoder(same_grid, weights).reshaped
    assert equal_tensors(same_grid.state_dict(), weights.encoder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"channels": 4}, r"have 3 channels, the model 4; set data.channels=3"),
        (
            {"patch_size": 4},
            r"have 2 pixels a patch's side, the model 4; set data.patch_size=2",
        ),
        (
            {"width": 64},
            r"32 wide, .*64 wide, .*; set model.width=32 model.depth=2 model.heads=4",
        ),
        ({"depth": 3}, r"2 deep, .*3 deep"),
        ({"heads": 8}, r"of 4 heads, .*of 8 heads"),
    ],
)
def test_other_sizes_are_refused_with_the_remedy(
    other: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_encoder(build_encoder(TINY, **other), build_weights(TINY))


def test_the_remedy_names_a_known_model() -> None:
    weights = build_weights(Geometry(3, 2, (4, 4), Stack(192, 12, 3, 4.0), None))
    with pytest.raises(ValueError, match=r"set model=mae_vit_ti$"):
        load_encoder(build_encoder(TINY), weights)
    deeper = Geometry(3, 2, (4, 4), TINY.encoder, Stack(16, 3, 4, 4.0))
    with pytest.raises(
        ValueError,
        match=(
            r"decoder is 16 wide, 3 deep, .*set decoder.width=16 decoder.depth=3"
            r" decoder.heads=4 decoder.mlp_ratio=4"
        ),
    ):
        load_mae(build_mae(TINY), build_weights(deeper))


def test_heads_of_another_kind_are_refused(tmp_path: Path) -> None:
    weights, _ = read_weights(
        save_official(tmp_path / "tuned.pth", official_state(head="fc_norm")), HINTS
    )
    for pool, classes, probe in (
        ("cls", 5, False),
        ("mean", 4, False),
        ("mean", 5, True),
    ):
        model = Classifier(
            FineTuneFeatures(build_encoder(TINY), pool), classes, probe, seed=0
        )  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r"head has .*fc_norm.weight \(32,\).*needs"
        ):
            load_classifier(model, weights)
    with pytest.raises(
        ValueError, match=r"classifies the class token.*use layout=timm"
    ):
        write_weights(weights, tmp_path / "hf", "hf")
