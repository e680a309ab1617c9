"""A minute of `make soak`: two cells under the cheapest faults end as undisturbed, bit for bit, and leave nothing."""

from pathlib import Path

import pytest

from soak.driver import Pace, Soak

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]
FAULTS = ("clock forward", "SIGKILL to a rank", "disk full while saving", "newest checkpoint flipped")
QUICK = ("pretrain.epochs=5", "finetune.epochs=10", "watch.times=2")


def test_a_sweep_under_faults_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    outcome = Soak(tmp_path, ("crops", "scratch"), FAULTS, Pace(0.5, 1.5), 6, QUICK)()
    assert outcome.complaints == []
    assert set(outcome.met) == set(FAULTS)
    assert outcome.restarts > 0
