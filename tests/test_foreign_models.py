"""Encoders and decoders from a file of the user's work everywhere."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from small_runs import COARSE, ROOT, call, load_weights, plan_for, raw_config
from unmask.commands.plan.memory import count_memory
from unmask.config.checks import ConfigError, check
from unmask.training.build import build_encoder, build_mae
from unmask.training.flops import count_flops
from unmask.training.foreign_models import check_countable
from unmask.training.foreign_parts import check_foreign_parts
from unmask.training.outline import pretraining_outline

# the file that docs/extending.md shows
(EXAMPLE,) = [
    block
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL
    )
    if "class DeepStem" in block
]
ENCODER = ("model._target_=my_model.DeepStem", "+model.hidden=8")
DECODER = ("decoder._target_=my_model.MeanDecoder",)
PRETRAIN = "stages=[pretrain]"
IDENTITY = """
class OwnStart(MeanDecoder):
    def initialise(self, seed):
        nn.init.constant_(self.embed.weight, seed)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder with my_model.py in it."""
    (tmp_path / "my_model.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_model", None)


def test_a_run_its_page_and_its_pictures(folder: Path) -> None:
    typed = ("stages=[pretrain,knn,finetune]", COARSE, "pretrain.epochs=1")
    short = ("finetune.epochs=1", "labels=50", "runs_dir=runs")
    trained = call(*typed, *short, *ENCODER, *DECODER)
    assert trained.returncode == 0, trained.stderr
    (path,) = folder.glob("runs/pretrain/*/result.json")
    page = next(folder.glob("runs/pages/*.html")).read_text()
    assert "my_model.DeepStem" in page
    assert "my_model.MeanDecoder" in page
    tuned = next(folder.glob("runs/finetune/*/checkpoints/*.ckpt"))
    assert "features.encoder.patch_embed.2.weight" in load_weights(tuned)
    common = {"tiny": False}
    drawn = call(
        f"checkpoint={path.parent}", "out=a.png", "count=1", script="reconstruct.py", **common
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    written = call(
        f"from={path.parent}", "to=a.pth", "layout=timm", script="convert.py", **common
    )
    assert written.returncode != 0
    assert "its encoder is my_model.DeepStem" in written.stderr
    priced = call(*typed, *short, *ENCODER, *DECODER, "lacking=false", script="plan.py")
    assert priced.returncode == 0, priced.stderr
    assert "MeanDecoder" in priced.stdout
    result = json.loads(path.read_text())
    assert result["metrics"]["val/loss"] > 0


def test_their_matrix_products_are_counted(folder: Path) -> None:
    config = check(raw_config(*ENCODER, *DECODER))
    counted = count_flops(lambda: pretraining_outline(config))
    # 1 + 4 tokens are embedded in 16 values, and 12 patches predicted: 49 pixels each
    assert counted.after_encoder == 2 * (5 * 16 * 16 + 12 * 16 * 49)


def test_a_constructor_may_read_values_and_forward_may_not(folder: Path) -> None:
    file = folder / "my_model.py"
    read = "super().__init__(**sizes)\n        torch.ones(1).item()"
    file.write_text(EXAMPLE.replace("super().__init__(**sizes)", read))
    config = check(raw_config(*ENCODER, *DECODER))
    check_countable(config)
    count_memory(lambda: pretraining_outline(config), "32-true")
    sys.modules.pop("my_model", None)
    read = "if encoded_BTD.any():\n            pass\n        mean_B1D = self"
    file.write_text(EXAMPLE.replace("mean_B1D = self", read))
    config = check(raw_config(*ENCODER, *DECODER))
    check_foreign_parts(config)
    with pytest.raises(ConfigError, match="counted without values"):
        check_countable(config)


def test_initial_weights_follow_from_the_seed(folder: Path) -> None:
    def weights(*overrides: str) -> dict[str, torch.Tensor]:
        return build_mae(check(raw_config(*ENCODER, *overrides))).state_dict()

    torch.manual_seed(1)
    ours, again = weights(*DECODER), weights(*DECODER)
    other = weights(*DECODER, "seed=1")
    # the constructor's own draws, and those of linear layers
    for name in ("decoder.position.weight", "encoder.patch_embed.0.weight"):
        assert torch.equal(ours[name], again[name])
        assert not torch.equal(ours[name], other[name])
    control = build_encoder(check(raw_config(*ENCODER)), seed=0).state_dict()
    assert torch.equal(control["patch_embed.0.weight"], ours["encoder.patch_embed.0.weight"])  # fmt: skip
    (folder / "my_model.py").write_text(EXAMPLE + IDENTITY)
    sys.modules.pop("my_model", None)
    own = weights("decoder._target_=my_model.OwnStart", "seed=3")
    assert (own["decoder.embed.weight"] == 3).all()


def test_code_counts_where_it_is_used(folder: Path) -> None:
    def fingerprints(*overrides: str) -> dict[str, str]:
        stages = plan_for("stages=[pretrain,scratch]", *overrides).stages
        return {spec.kind: spec.fingerprint for spec in stages}

    plain = fingerprints()
    before = fingerprints(*DECODER)
    with_encoder = fingerprints(*ENCODER)
    # training from scratch has no decoder
    assert before["pretrain"] != plain["pretrain"]
    assert before["scratch"] == plain["scratch"]
    assert with_encoder["scratch"] != plain["scratch"]
    assert with_encoder["scratch"] != fingerprints(*ENCODER[:1], "+model.hidden=9")["scratch"]  # fmt: skip
    file = folder / "my_model.py"
    file.write_text(f'"""Say more."""\n{EXAMPLE}')
    assert fingerprints(*DECODER) == before
    file.write_text(EXAMPLE.replace("nn.GELU()", "nn.ReLU()"))
    assert fingerprints(*DECODER)["pretrain"] != before["pretrain"]
    assert fingerprints(*ENCODER)["scratch"] != with_encoder["scratch"]


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        (DECODER, "self.head(mean_B1D +", "self.head(mean_B1D.mean() +", None),
        (DECODER, "reads_blocks = False", "", "it lacks reads_blocks"),
        (DECODER, "index_BM = masking.hidden_BM", "index_BM = masking.visible_BV", r"predictions have the shape \[2, 4, 49\], not \[2, 12, 49\]"),
        (DECODER, "mean_B1D + self.position(index_BM)", "self.position(index_BM)", "embed.weight, embed.bias get no gradient"),
        (ENCODER, "class MeanDecoder", "DeepStem.forward = lambda *values: 'x'\n\n\nclass MeanDecoder", "tokens are a str, not a tensor"),
        (DECODER, "**unused", "", "unexpected keyword argument"),
        (ENCODER, "self.width)", "self.width + 1)", "must match the size"),
        (ENCODER, "super().__init__(**sizes)", "super().__init__(**sizes)\n        self.class_tokens = 2", r"pos_embed has the shape \[1, 17, 16\]"),
        (ENCODER, "super().__init__(**sizes)", "nn.Module.__init__(self)\n        self.patch_size = self.channels = self.width = 1", "it lacks grid, class_tokens, blocks, norm, pos_embed"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_work_is_refused_before_anything_starts(
    folder: Path, part: tuple[str, ...], old: str, new: str, message: str | None
) -> None:
    assert old in EXAMPLE
    (folder / "my_model.py").write_text(EXAMPLE.replace(old, new))
    config = check(raw_config(*part))
    if message is None:
        check_foreign_parts(config)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        check_foreign_parts(config)
    assert part[0].replace("=", " = ", 1) in str(caught.value)


def test_names_and_weights_that_lead_nowhere_are_refused(folder: Path) -> None:
    for override, message in (
        ("decoder._target_=my_model.MeanDecode", "did you mean my_model.MeanDecoder?"),
        ("model._target_=torch.nn.Linear", "is not yours"),
        ("decoder._target_=unmask.decoder.Decode", "unmask.decoder.Decoder"),
        ("+decoder.dropout=0.1", "decoder.dropout = 0.1: there is no such key"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            check(raw_config(override))
    refused = call("+decoder.hidden=3", "runs_dir=runs")
    assert (refused.returncode, "decoder.hidden" in refused.stderr) == (2, True)
