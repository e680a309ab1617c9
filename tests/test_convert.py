"""Weights go from any layout to any other; the table names every tensor; nothing is overwritten by default."""

import io
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

from foreign_weights import equal_tensors, official_state, save_official
from small_runs import call, load_weights, run
from unmask.commands.convert import Convert
from unmask.commands.convert import run as convert
from unmask.config.checks import ConfigError, check
from unmask.exchange.geometry import Hints
from unmask.exchange.load_into_model import load_classifier, load_mae
from unmask.exchange.read_weights import read_weights
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


def arguments(
    source: Path, to: Path, layout: str = "safetensors", **more: object
) -> Convert:
    values = {
        "heads": None,
        "decoder_heads": None,
        "grid": None,
        "weights": None,
        "target": None,
        "license": None,
        "overwrite": False,
    } | more
    return Convert.model_validate(
        {"from": str(source), "to": str(to), "layout": layout, **values}
    )


def printed(table: object) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(table)
    return text.getvalue()


def test_a_pretraining_of_this_project_goes_out_and_comes_back(
    ledger: Path, tmp_path: Path
) -> None:
    folder = stage(ledger, "pretrain")
    for layout in ("hf", "official", "safetensors"):
        convert(arguments(folder, tmp_path / layout, layout))
        weights, _ = read_weights(tmp_path / layout)
        before, _ = read_weights(folder)
        assert equal_tensors(weights.named_tensors(), before.named_tensors())
        assert weights.geometry == before.geometry
    path = checkpoints.newest(folder / "checkpoints")
    assert path is not None
    model = build.build_mae(check(checkpoints.load(path)["unmask"]["config"]))
    load_mae(model, weights)
    assert equal_tensors(model.state_dict(), load_weights(path))


@torch.no_grad()
def test_a_classifier_of_this_project_gives_the_same_logits_in_timm(
    ledger: Path, tmp_path: Path
) -> None:
    folder = stage(ledger, "finetune")
    text = printed(convert(arguments(folder, tmp_path / "vit.pth", "timm")))
    weights, _ = read_weights(folder)
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
        convert(arguments(stage(ledger, "linear_probe"), tmp_path / "out"))


def test_the_table_accounts_for_every_tensor(tmp_path: Path) -> None:
    source = save_official(tmp_path / "mae.pth", official_state(decoder=True))
    text = printed(
        convert(
            arguments(
                source, tmp_path / "vit.safetensors", "timm", heads=4, decoder_heads=4
            )
        )
    )
    for message in (
        (
            "4 x 4 patches of 2 pixels, 3 channels; encoder 32 x 2, 4 heads; decoder 16"
            " x 2, 4 heads"
        ),
        "61 tensors",
        "encoder.patch_embed.weight",
        "reshaped: (32, 3, 2, 2) -> (32, 12)",
        "decoder.mask_token and 31 more",
        "dropped, known: timm's ViT has no decoder",
    ):
        assert message in text, text


def test_sources_and_targets_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"from=.*none: no such file or folder"):
        convert(arguments(tmp_path / "none", tmp_path / "out"))
    source = save_official(tmp_path / "mae.pth", official_state())
    with pytest.raises(
        ConfigError,
        match=r"to=.*mae.pth exists; give another place or add overwrite=true",
    ):
        convert(arguments(source, source, heads=4))
    convert(arguments(source, source, heads=4, overwrite=True))
    assert equal_tensors(
        read_weights(source)[0].encoder,
        read_weights(
            save_official(tmp_path / "again.pth", official_state()), Hints(heads=4)
        )[0].encoder,
    )


@pytest.mark.process
def test_the_command_converts_and_prints_the_table(tmp_path: Path) -> None:
    source, to = (
        save_official(tmp_path / "mae.pth", official_state(decoder=True)),
        tmp_path / "hf",
    )
    typed = (f"from={source}", f"to={to}", "layout=hf", "heads=4", "decoder_heads=4")
    done = call(*typed, script="convert.py", tiny=False)
    assert done.returncode == 0, done.stderr
    assert "reshaped: (96, 32) -> 3 x (32, 32)" in done.stdout
    assert f"hf: {to}" in done.stdout
    assert f"ViTMAEForPreTraining.from_pretrained('{to}')" in done.stdout
    assert read_weights(to)[0].decoder is not None
    again = call(*typed, script="convert.py", tiny=False)
    assert (again.returncode, "hf exists; give another place" in again.stderr) == (
        2,
        True,
    )


@pytest.mark.process
def test_mistakes_are_answered_in_one_line_with_an_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"")
    out = f"to={tmp_path / 'out'}"
    for typed, code, message in (
        ((f"from={bad}", out), 2, "is empty: 0 bytes"),
        ((out,), 2, "from: missing; give a file"),
        ((f"from={bad}", out, "layout=keras"), 2, "layout = 'keras'"),
        (
            (f"from={bad}", out, "hads=3"),
            2,
            "hads: there is no such key; did you mean heads?",
        ),
    ):
        done = call(*typed, script="convert.py", tiny=False)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
