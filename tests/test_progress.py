"""The progress line shows the loss that the metrics log has, of all ranks and parts."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from small_runs import COARSE, plan_for
from unmask.distributed import collectives


@pytest.mark.parametrize("micro_batch", ["null", "1000"])
def test_the_line_of_a_step_has_the_loss_of_its_row(
    micro_batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.training.execute import execute

    # the other ranks' losses are larger than this one's
    def mean(value: torch.Tensor) -> torch.Tensor:
        return value + 1

    monkeypatch.setattr(collectives, "all_reduce_mean", mean)
    plan = plan_for(
        f"runs_dir={tmp_path}",
        "stages=[pretrain]",
        COARSE,
        "pretrain.batch_size=4000",
        f"trainer.micro_batch={micro_batch}",
    )
    output = io.StringIO()
    execute(plan, Console(file=output, width=200))
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    row = json.loads(log.read_text().splitlines()[0])
    assert row["step"] == 1
    (shown,) = re.findall(r"step 1/3 .* loss (\S+) ", output.getvalue())
    assert float(shown) == pytest.approx(row["train/loss"], abs=1e-4)
