"""Golden losses: code must not change results unnoticed, as no fingerprint covers it.

Where one changes on purpose, raise RESULT_VERSION in unmask/stages/fingerprint.py and
write the new numbers here.
"""

from pathlib import Path

import pytest

from small_runs import run

REASON = "results have changed: raise RESULT_VERSION and renew the golden numbers"


@pytest.mark.parametrize(
    ("overrides", "golden"),
    [
        ("masking=random target=pixel", 0.98586017),
        ("masking=block target=pixel_norm augment=crop_random", 0.62973738),
        ("masking=grid target=pixel augment=crop_fixed", 0.98278779),
    ],
)
def test_pretraining_gives_the_golden_loss(
    overrides: str, golden: float, tmp_path: Path
) -> None:
    (result,) = run(f"runs_dir={tmp_path}", "stages=[pretrain]", *overrides.split())
    assert result["metrics"]["val/loss"] == pytest.approx(golden, rel=1e-4), REASON


@pytest.mark.parametrize(
    ("stage", "golden"), [("linear_probe", 2.0033147), ("scratch", 2.2706270)]
)
def test_measurements_give_the_golden_loss(
    stage: str, golden: float, tmp_path: Path
) -> None:
    longer = (
        ("labels=100", "finetune.epochs=20")
        if stage == "scratch"
        else ("linear_probe.epochs=40",)
    )
    result = run(f"runs_dir={tmp_path}", f"stages=[{stage}]", *longer)[-1]
    assert result["metrics"]["val/loss"] == pytest.approx(golden, rel=1e-4), REASON
