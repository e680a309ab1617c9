"""A command that tests run in their own process leaves nothing behind in it."""

import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from small_runs import call
from unmask.commands import cli
from unmask.distributed.processes import STOP_SIGNALS, received_signals


def state_of_this_process() -> dict[str, object]:
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "argv": sys.argv,
        "path": [*sys.path],
        "streams": (sys.stdout, sys.stderr),
        "handlers": {number: signal.getsignal(number) for number in STOP_SIGNALS},
        "warnings": (warnings.formatwarning, [*warnings.filters]),
        "log handlers": [*logging.root.handlers],
        "hydra": (GlobalHydra.instance().is_initialized(), HydraConfig.instance().cfg),
        "started": cli.command_started,
        "received signals": [*received_signals],
        "threads": torch.get_num_threads(),
        "random": (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ),
    }


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (("stages=[pretrain]", "pretrain.epochs=1"), 0),
        (("mask_ratio=2",), 2),
        (("no_such_key=1",), 2),
    ],
)
def test_a_command_leaves_this_process_as_it_was(
    typed: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    before = state_of_this_process()
    done = call(*typed, f"runs_dir={tmp_path}", env={"A_NEW_VARIABLE": "1"})
    assert done.returncode == code, done.stderr
    after = state_of_this_process()
    for name, value in before.items():
        assert after[name] == value, name


def test_what_a_command_prints_and_how_it_ends_is_told_apart(tmp_path: Path) -> None:
    done = call("--help", script="report.py", tiny=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs_dir" in done.stdout
    wrong = call("runs_dri=1", script="report.py", tiny=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "runs_dri" in wrong.stderr
