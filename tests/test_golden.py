"""Losses that code changes must not move unnoticed: a fingerprint does not know the code.

Where one of these moves on purpose, raise RESULT_VERSION in unmask/runs/fingerprint.py and write the new numbers down.
"""

from pathlib import Path

import pytest
from small_runs import run

REASON = "results have changed: raise RESULT_VERSION and renew the golden numbers"


@pytest.mark.parametrize(
    ("overrides", "golden"),
    [
        ("masking=random target=pixel", 0.0),
        ("masking=block target=pixel_norm augment=crop_random", 0.0),
        ("masking=grid target=pixel augment=crop_fixed", 0.0),
    ],
)
def test_pretraining_gives_the_golden_loss(overrides: str, golden: float, tmp_path: Path) -> None:
    (result,) = run(f"runs_dir={tmp_path}", "stages=[pretrain]", *overrides.split())
    assert result["metrics"]["val/loss"] == pytest.approx(golden, rel=1e-4), REASON


@pytest.mark.parametrize(("stage", "golden"), [("linear_probe", 0.0), ("scratch", 0.0)])
def test_measurements_give_the_golden_loss(stage: str, golden: float, tmp_path: Path) -> None:
    result = run(f"runs_dir={tmp_path}", f"stages=[{stage}]", "labels=100" if stage == "scratch" else "seed=0")[-1]
    assert result["metrics"]["val/loss"] == pytest.approx(golden, rel=1e-4), REASON
