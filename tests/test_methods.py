"""method=: each paper's settings, in one run with everything that runs need."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from small_runs import COARSE, call, plan_for, raw_config, run
from test_resume import Crash, assert_same, crash_at
from unmask.config.checks import ConfigError, check
from unmask.patches import unpatchify
from unmask.randomness import make_key
from unmask.targets import AbsolutePixel, targets_at
from unmask.training.build import build_mae, build_masking
from unmask.training.flops import count_flops
from unmask.training.outline import pretraining_outline

METHODS = ("mae", "crossmae", "simmim", "pixio")
pytestmark = pytest.mark.process
PRETRAIN = "stages=[pretrain]"
# 4 x 4 patches
LINEAR = "decoder.depth=0"
SMALL = ("data.patch_size=7", "pretrain.epochs=1", "labels=100")


def test_what_each_method_sets() -> None:
    mae, cross, simmim, pixio = (
        check(raw_config(f"method={name}", tiny=False)) for name in METHODS
    )
    assert mae == check(raw_config(tiny=False))
    assert cross.decoder.prediction_ratio == 0.25
    assert cross.decoder.inter_block
    assert (simmim.mask_ratio, simmim.decoder.depth) == (0.6, 0)
    assert simmim.encoder.mask_tokens
    assert (pixio.model.class_tokens, pixio.decoder.depth) == (8, pixio.model.depth)
    assert pixio.masking.block == 1
    # at the paper's size, 16 x 16 patches
    at_256 = ("data.image_size=256", "data.patch_size=16", "model=mae_vit_h")
    published = check(raw_config("method=pixio", *at_256, tiny=False))
    assert (published.masking.block, published.decoder.depth) == (4, 32)
    assert published.decoder.width == 512
    at_224 = ("data.image_size=224", "data.patch_size=16", "model=mae_vit_b")
    published = check(raw_config("method=simmim", *at_224, tiny=False))
    # 32 pixels
    assert published.masking.block == 2


@pytest.mark.parametrize("method", METHODS[1:])
def test_all_stages_pages_and_pictures(method: str, tmp_path: Path) -> None:
    stages = "stages=[pretrain,knn,finetune]"
    short = ("finetune.epochs=1", f"runs_dir={tmp_path}")
    depth = [LINEAR] if method == "simmim" else []
    done = call(f"method={method}", stages, *SMALL, *short, *depth)
    assert done.returncode == 0, done.stderr
    results = {p.parts[-3]: p for p in tmp_path.glob("*/*/result.json")}
    assert len(results) == 3
    folder = results["pretrain"].parent
    drawn = call(
        f"checkpoint={folder}",
        f"out={tmp_path}/a.png",
        "count=2",
        script="reconstruct.py",
        tiny=False,
    )
    assert drawn.returncode == 0, drawn.stderr
    layouts = {"safetensors": "b.safetensors", "timm": "b.pth"}
    for layout, name in layouts.items():
        written = call(
            f"from={folder}",
            f"to={tmp_path / name}",
            f"layout={layout}",
            script="convert.py",
            tiny=False,
        )
        is_refused = method == "pixio" and layout == "timm"
        assert written.returncode == int(is_refused), written.stderr
        if is_refused:
            assert "one class token, these weights 8" in written.stderr
    page = next(tmp_path.glob("pages/*.html")).read_text()
    shown = {"crossmae": "cross", "simmim": "pixel_l1", "pixio": "class_tokens"}
    assert shown[method] in page


def test_a_crashed_run_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of the patches that is predicted is drawn as before the crash."""
    typed = ("method=crossmae", PRETRAIN, COARSE, "checkpoint.every_steps=2")
    run(*typed, f"runs_dir={tmp_path}/whole")
    with monkeypatch.context() as patched:
        crash_at(patched, 5)
        with pytest.raises(Crash):
            run(*typed, f"runs_dir={tmp_path}/again")
    run(*typed, f"runs_dir={tmp_path}/again")
    assert_same(tmp_path / "again", tmp_path / "whole")


def test_simmim_is_its_definition() -> None:
    """Its code predicts the image and divides |x - y| by the masked pixels and C."""
    typed = ("data=cifar10", "data.image_size=16", "data.patch_size=2")
    config = check(raw_config("method=simmim", LINEAR, *typed))
    model = build_mae(config)
    images_BCHW = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masking = build_masking(config)(make_key(0, "mask"), torch.arange(2), 0)
    target = targets_at(AbsolutePixel(), images_BCHW, masking.hidden_BM, 2)
    loss = AbsolutePixel().loss(model(images_BCHW, masking), target)
    # all tokens pass the encoder, in any order, each with its own position
    encoder, head = model.encoder, model.decoder.head
    sequences = []
    for b in range(2):
        tokens = []
        for i in range(64):
            row, col = 2 * (i // 8), 2 * (i % 8)
            patch = images_BCHW[b, :, row : row + 2, col : col + 2].permute(1, 2, 0)
            token = encoder.patch_embed(patch.flatten())
            if masking.hidden_BL[b, i]:
                token = model.mask_token[0, 0]
            tokens.append(token + encoder.pos_embed[0, 1 + i])
        sequences.append(torch.stack([encoder.cls_token[0, 0], *tokens]))
    tokens = torch.stack(sequences)
    for block in encoder.blocks:
        tokens = block(tokens)
    predicted = unpatchify(head(encoder.norm(tokens))[:, 1:], (8, 8), 3)
    mask = masking.hidden_BL.view(2, 8, 8)
    mask = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    errors = F.l1_loss(images_BCHW, predicted, reduction="none")
    expected = (errors * mask).sum() / mask.sum() / 3
    torch.testing.assert_close(loss, expected)
    # squares of 2 x 2 patches share their fate
    squares = masking.hidden_BL.view(2, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(squares.any(-1), squares.all(-1))
    # 10 of 16
    assert squares.all(-1).sum(dim=(1, 2)).tolist() == [10, 10]


def test_partial_prediction_costs_less_and_no_other_weights() -> None:
    def flops(*overrides: str) -> tuple[float, int]:
        config = check(raw_config("decoder=cross", "data.patch_size=4", *overrides))
        counted = count_flops(lambda: pretraining_outline(config))
        return counted.after_encoder, counted.parameters

    whole, parameters = flops()
    part, same = flops("decoder.prediction_ratio=0.25")
    assert parameters == same
    assert part < 0.6 * whole


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoder.depth=0"], "decoder=cross reads the encoder in its blocks"),
        (["encoder.mask_tokens=true"], "has mask tokens of its own"),
        (["decoder.prediction_ratio=0.9"], "only mask_ratio=0.75"),
        (["decoder.prediction_ratio=0.5", "loss_on=all"], "loss_on=all predicts every"),
        (["decoder.prediction_ratio=0"], "decoder.prediction_ratio = 0"),
        (["decoder=mae", "+decoder.inter_block=true"], "decoder.inter_block"),
    ],
)
def test_what_does_not_fit_a_cross_decoder_is_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(raw_config("decoder=cross", *overrides))


def test_results_depend_on_what_is_predicted_and_keep_their_names() -> None:
    def fingerprint(*overrides: str) -> str:
        return plan_for(PRETRAIN, *overrides).stages[0].fingerprint

    ours = [
        fingerprint(),
        fingerprint("decoder=cross"),
        fingerprint("decoder=cross", "decoder.prediction_ratio=0.25"),
        fingerprint("decoder=cross", "decoder.inter_block=false"),
        fingerprint("target=pixel_l1"),
        fingerprint("masking=coarse", "masking.block=2"),
    ]
    assert len(set(ours)) == len(ours)
    assert fingerprint("method=mae") == ours[0]


def test_two_ranks_train_a_crossmae_as_one_does(tmp_path: Path) -> None:
    """Both wait for the gradient of every trained parameter."""
    typed = ("method=crossmae", PRETRAIN, COARSE, "pretrain.epochs=1")
    (alone,) = run(*typed, f"runs_dir={tmp_path}/1")
    ranks = ("trainer.devices=2", f"runs_dir={tmp_path}/2")
    done = call(*typed, *ranks, process="forked")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("2/pretrain/*/result.json")
    loss = json.loads(path.read_text())["metrics"]["val/loss"]
    assert loss == pytest.approx(alone["metrics"]["val/loss"], rel=1e-4)
