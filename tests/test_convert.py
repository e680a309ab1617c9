"""The command takes weights in and out, says what became of every tensor, and writes over nothing unasked."""

import io
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

from foreign_weights import official, same, saved
from small_runs import call, run
from unmask.commands.convert import convert
from unmask.config.arguments import Convert
from unmask.config.checks import ConfigError, check
from unmask.exchange.geometry import Hints
from unmask.exchange.load import load_classifier, load_mae
from unmask.exchange.read import read
from unmask.heads import Classifier, FineTuneFeatures
from unmask.storage import checkpoints
from unmask.training import build


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining, a probe on stored features and a fine-tuned classifier of this project."""
    runs = tmp_path_factory.mktemp("runs")
    run(
        f"runs_dir={runs}",
        "stages=[pretrain,linear_probe,finetune]",
        "pretrain.epochs=1",
        "labels=20",
    )
    return runs


def stage(ledger: Path, kind: str) -> Path:
    (folder,) = ledger.glob(f"{kind}/*")
    return folder


def given(
    source: Path, to: Path, layout: str = "safetensors", **more: object
) -> Convert:
    values = {
        "heads": None,
        "decoder_heads": None,
        "grid": None,
        "overwrite": False,
    } | more
    return Convert.model_validate(
        {"from": str(source), "to": str(to), "layout": layout, **values}
    )


def printed(table: object) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(table)
    return text.getvalue()


def test_a_pretraining_of_ours_goes_out_and_comes_back(
    ledger: Path, tmp_path: Path
) -> None:
    folder = stage(ledger, "pretrain")
    for layout in ("hf", "official", "safetensors"):
        convert(given(folder, tmp_path / layout, layout))
        weights, _ = read(tmp_path / layout)
        before, _ = read(folder)
        assert same(weights.named(), before.named())
        assert weights.geometry == before.geometry
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    model = build.build_mae(check(checkpoints.load(path)["unmask"]["config"]))
    load_mae(model, weights)
    assert same(model.state_dict(), checkpoints.weights(path))


@torch.no_grad()
def test_a_classifier_of_ours_classifies_alike_in_timm(
    ledger: Path, tmp_path: Path
) -> None:
    folder = stage(ledger, "finetune")
    text = printed(convert(given(folder, tmp_path / "vit.pth", "timm")))
    weights, _ = read(folder)
    if weights.pool == "mean":
        assert (
            "dropped, known: not used: the classifier normalises after pooling" in text
        )
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    config = check(checkpoints.load(path)["unmask"]["config"])
    ours = Classifier(
        FineTuneFeatures(build.build_encoder(config), config.finetune.pool),
        10,
        probe=False,
        seed=1,
    )
    load_classifier(ours, weights)
    size = weights.geometry.encoder
    theirs = timm.create_model(
        "vit_base_patch16_224",
        img_size=28,
        patch_size=7,
        in_chans=1,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=10,
        global_pool="avg" if weights.pool == "mean" else "token",
        checkpoint_path=tmp_path / "vit.pth",
    )
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(
        ours.eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-5
    )


def test_a_head_on_stored_features_has_no_encoder_to_convert(
    ledger: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="trained on stored features: it holds no encoder"
    ):
        convert(given(stage(ledger, "linear_probe"), tmp_path / "out"))


def test_the_table_accounts_for_every_tensor(tmp_path: Path) -> None:
    source = saved(tmp_path / "mae.pth", official(decoder=True))
    text = printed(
        convert(
            given(
                source, tmp_path / "vit.safetensors", "timm", heads=4, decoder_heads=4
            )
        )
    )
    for said in (
        (
            "4 x 4 patches of 2 pixels, 3 channels; encoder 32 x 2, 4 heads; decoder 16"
            " x 2, 4 heads"
        ),
        "61 tensors",
        "encoder.patch_embed.weight",
        "reshaped: (32, 3, 2, 2) -> (32, 12)",
        "decoder.mask_token and 31 more",
        "dropped, known: timm's ViT has no decoder",
        "num_classes=0",
    ):
        assert said in text, text


def test_sources_and_targets_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"from=.*none: no such file or folder"):
        convert(given(tmp_path / "none", tmp_path / "out"))
    source = saved(tmp_path / "mae.pth", official())
    with pytest.raises(
        ConfigError,
        match=r"to=.*mae.pth exists; give another place or add overwrite=true",
    ):
        convert(given(source, source, heads=4))
    convert(given(source, source, heads=4, overwrite=True))
    assert same(
        read(source)[0].encoder,
        read(saved(tmp_path / "again.pth", official()), Hints(heads=4))[0].encoder,
    )


@pytest.mark.process
def test_the_command_converts_and_prints_the_table(tmp_path: Path) -> None:
    source, to = saved(tmp_path / "mae.pth", official(decoder=True)), tmp_path / "hf"
    typed = (f"from={source}", f"to={to}", "layout=hf", "heads=4", "decoder_heads=4")
    done = call(*typed, script="convert.py", tiny=False)
    assert done.returncode == 0, done.stderr
    assert "reshaped: (96, 32) -> 3 x (32, 32)" in done.stdout
    assert f"hf: {to}" in done.stdout
    assert read(to)[0].decoder is not None
    again = call(*typed, script="convert.py", tiny=False)
    assert (again.returncode, "hf exists; give another place" in again.stderr) == (
        2,
        True,
    )


@pytest.mark.process
def test_the_commands_faults_are_one_line_with_an_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"")
    out = f"to={tmp_path / 'out'}"
    for typed, code, said in (
        ((f"from={bad}", out), 1, "is empty: 0 bytes"),
        ((out,), 2, "from: missing; give a file"),
        ((f"from={bad}", out, "layout=keras"), 2, "layout = 'keras'"),
        (
            (f"from={bad}", out, "hads=3"),
            2,
            "hads: there is no such key; did you mean heads?",
        ),
    ):
        done = call(*typed, script="convert.py", tiny=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
