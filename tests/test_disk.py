"""A disk that cannot take the checkpoints is refused before anything starts."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from small_runs import call, plan_for, raw_config
from unmask.config.checks import ConfigError, check
from unmask.config.model_checks import count_weights
from unmask.mae import num_parameters
from unmask.stages.disk import refuse_small_disk
from unmask.training.build import build_mae

Usage = namedtuple("Usage", "free")
LARGE = ("stages=[pretrain]", "model.width=512", "model.depth=4")


@pytest.mark.parametrize("more", [(), ("decoder.depth=2",), ("model.depth=4",)])
def test_weights_are_counted_up_to_biases(more: tuple[str, ...]) -> None:
    config = check(raw_config("model.width=256", *more))
    counted = count_weights(config, with_decoder=True)
    assert 0.9 < counted / num_parameters(build_mae(config)) <= 1


def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(4e8))
    # 12.6 million weights, three numbers each, three files, and the best weights
    runs = f"runs_dir={tmp_path / 'not' / 'there'}"
    refused = call(*LARGE, runs)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "0.4 GB free" in line
    assert "checkpoint.keep=1" in line
    plan = plan_for(*LARGE, runs)
    refuse_small_disk([plan_for(*LARGE, runs, "checkpoint.keep=1", "model.depth=2")])
    # a sweep whose cells each fit, and all together do not
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(6e8))
    refuse_small_disk([plan])
    with pytest.raises(ConfigError, match="GB or more"):
        refuse_small_disk([plan, plan_for(*LARGE, runs, "seed=1")])
