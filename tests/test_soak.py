"""A minute of `make soak`: two cells under faults end as undisturbed, bit for bit."""

from pathlib import Path

import pytest

from soak.driver import Pace, Soak, fork_sweep

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]
FAULTS = (
    "clock forward",
    "SIGKILL to a rank",
    "disk full while saving",
    "newest checkpoint flipped",
)
QUICK = (
    "pretrain.batch_size=200",
    "pretrain.epochs=3",
    "finetune.epochs=4",
    "watch.times=2",
)


def test_a_sweep_under_faults_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    outcome = Soak(
        tmp_path, ("crops", "scratch"), FAULTS, Pace(0.3, 0.8), 6, QUICK, fork_sweep
    )()
    assert outcome.complaints == []
    assert set(outcome.num_faults) == set(FAULTS)
    assert outcome.restarts > 0
