"""What init_from names is checked by its header: before anything starts, in a line."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from foreign_weights import official_state, random_tensors, save_official
from small_runs import call, plan_for, raw_config
from unmask.config.checks import ConfigError, check, check_checkpoint_config
from unmask.decoder import Decoder
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Geometry, Stack, expected_shapes
from unmask.exchange.weights import build_encoder
from unmask.stages.given_weights import init_from_source
from unmask.training.build import build_mae

# a model that fits foreign_weights.official_state
FITTING = (
    "stages=[pretrain,knn]",
    "model.width=32",
    "model.depth=2",
    "model.heads=4",
    "decoder.depth=2",
    "decoder.heads=4",
    "data.patch_size=7",
)


def save(tmp_path: Path, **sizes: Any) -> Path:
    state = official_state(**({"patch": 7, "channels": 1} | sizes))
    return save_official(tmp_path / "mae.pth", state)


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        plan_for(*overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.width=64", r"32 wide, .* 64 wide, .*set model.width=32 model.depth=2"),
        ("model.mlp_ratio=2", "with MLPs of 128, the model's .* with MLPs of 64"),
        ("decoder.width=32", "set decoder.width=16 decoder.depth=2 decoder.heads=4"),
        ("decoder.mlp_ratio=2", "MLPs of 32; set .*decoder.mlp_ratio=4"),
        ("data.patch_size=14", "7 pixels a patch's side, the model 14; set data.patch"),
        ("weights=ema", "no weights=ema; it has weights=model"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_remedy(
    change: str, message: str, tmp_path: Path
) -> None:
    path = save(tmp_path, decoder=True)
    plan_for(*FITTING, f"init_from={path}")
    text = refused(*FITTING, f"init_from={path}", change)
    assert re.search(message, text), text
    assert text.startswith(f"init_from = {path}: ")


def test_files_without_weights_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.pth"
    for content, message in (
        (b"", "is empty: 0 bytes"),
        (b"noise", "neither a PyTorch nor a safetensors file"),
        (save(tmp_path).read_bytes()[:2000], "is damaged or cut short"),
    ):
        path.write_bytes(content)
        assert message in refused(*FITTING, f"init_from={path}")
    torch.save({"state_dict": {"model.head.weight": torch.zeros(10, 4)}}, path)
    assert "is a head trained on stored features" in refused(
        *FITTING, f"init_from={path}"
    )


@pytest.mark.process
def test_a_sweep_refuses_weights_that_fit_one_of_its_cells_alone(
    tmp_path: Path,
) -> None:
    path = save(tmp_path)
    typed = [arg for arg in FITTING if not arg.startswith("model.width")]
    done = call(
        "-m", *typed, f"runs_dir={tmp_path}", f"init_from={path}", "model.width=32,64"
    )
    assert done.returncode == 2
    assert "no cell was started" in done.stderr
    assert "32 wide, 2 deep" in done.stderr
    assert not (tmp_path / "pretrain").exists()


def test_a_count_that_fits_the_models_own_grid_is_not_taken_for_a_square(
    tmp_path: Path,
) -> None:
    """32 x 2 patches are 64, as 8 x 8 are: positions would be scrambled."""
    wide = (
        *FITTING,
        "data.image_size=[224,14]",
        f"init_from={save(tmp_path, tokens=65)}",
    )
    config = check(raw_config(*wide))
    weights, report = read_weights(*init_from_source(config))
    assert weights.geometry.grid == (32, 2)
    assert not any("grid" in note for note in report.notes)
    # what was read as a square before is another result
    (given, *_) = plan_for(*wide).stages
    assert given.science["positions"] == {"from": [32, 2]}
    (same, *_) = plan_for(
        *FITTING, "data.image_size=28", f"init_from={save(tmp_path)}"
    ).stages
    assert "positions" not in same.science


def test_a_square_that_nothing_names_is_said_and_the_key_gives_another(
    tmp_path: Path,
) -> None:
    path = save(tmp_path, tokens=37)
    arguments = (*FITTING, "data.image_size=28", f"init_from={path}")
    config = check(raw_config(*arguments))
    weights, report = read_weights(*init_from_source(config))
    assert weights.geometry.grid == (6, 6)
    assert any("36 positions are taken for 6 x 6" in note for note in report.notes)
    config = check(raw_config(*arguments, "grid=[4,9]"))
    assert read_weights(*init_from_source(config))[0].geometry.grid == (4, 9)
    assert "grid=[5,9] has 45 patches" in refused(*arguments, "grid=[5,9]")
    no_square = save(tmp_path, tokens=16)
    text = refused(*FITTING, "data.image_size=28", f"init_from={no_square}")
    assert "15 positions are no square; give grid=[rows,columns], one of" in text


def test_keys_for_init_from_without_it_are_refused() -> None:
    assert "set init_from=FILE or weights=null" in refused("weights=ema")
    assert "set init_from=FILE or grid=null" in refused("grid=[2,8]")


@pytest.mark.parametrize(
    ("overrides", "ratios"),
    [
        ((), (4, 4)),
        (("model.mlp_ratio=2",), (2, 2)),
        (("model.mlp_ratio=2", "decoder.mlp_ratio=3"), (2, 3)),
    ],
)
def test_the_decoders_mlps_follow_the_models(
    overrides: tuple[str, ...], ratios: tuple[int, int]
) -> None:
    model = build_mae(check(raw_config(*overrides)))
    parts = (model.encoder, model.decoder)
    hidden = [part.blocks[0].mlp.fc1.out_features for part in parts]
    assert hidden == [ratio * 16 for ratio in ratios]


def test_a_checkpoint_from_before_the_keys_means_what_it_did() -> None:
    raw = raw_config("model.mlp_ratio=2")
    for key in ("weights", "grid", "positions"):
        del raw[key]
    del raw["decoder"]["mlp_ratio"]
    config = check_checkpoint_config(raw)
    assert (config.decoder.mlp_ratio, config.positions) == (4, "timm")


@pytest.mark.parametrize("decoder", [None, Stack(16, 2, 4, 4304 / 1152)])
def test_expected_shapes_are_those_of_the_models(decoder: Stack | None) -> None:
    geometry = Geometry(3, 2, (2, 5), Stack(32, 3, 4, 2.5), decoder)
    shapes = expected_shapes(geometry)
    encoder = build_encoder(geometry).state_dict()
    found = {f"encoder.{name}": tuple(v.shape) for name, v in encoder.items()}
    assert {n: s for n, s in shapes.items() if n.startswith("encoder")} == found
    if decoder:
        sizes = (decoder.width, decoder.depth, decoder.heads, decoder.mlp_ratio)
        state = Decoder((2, 5), 32, 12, *sizes).state_dict()
        found = {f"decoder.{name}": tuple(v.shape) for name, v in state.items()}
        assert {n: s for n, s in shapes.items() if n.startswith("decoder")} == found
    assert random_tensors(shapes).keys() == shapes.keys()
