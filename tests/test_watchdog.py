"""A training that hangs is ended, with the stacks of all processes on file; one that was stopped for a while is not."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from forked import Started
from small_runs import COARSE, ROOT, environment, run
from test_resume import assert_same, undisturbed, wait_for

__all__ = ["undisturbed"]


@pytest.mark.process
def test_a_run_that_hangs_ends_with_its_stacks_and_goes_on_but_not_one_that_was_stopped(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Stopped as by Ctrl-Z for longer than a step may take, then let go on, then hanging."""
    runs = tmp_path / "runs"
    overrides = f"runs_dir={runs}", "stages=[pretrain]", COARSE
    typed = [
        sys.executable,
        str(ROOT / "tests" / "hanging.py"),
        *overrides,
        "checkpoint.every_steps=2",
    ]
    process = Started([*typed, "trainer.timeout_minutes=0.05"], tmp_path, environment())
    wait_for(lambda: "between two batches\n" in process.stdout.read_text(), process)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    # it was not ended for having been stopped
    wait_for(lambda: "hanging\n" in process.stdout.read_text(), process)
    assert process.wait(timeout=120) == 1
    (stacks,) = runs.glob("pretrain/*/stacks.txt")
    assert "process 0 has not moved for 0.05 minutes after step 6, at " in process.said
    assert (
        f"every thread's stack is in {stacks}; the same command goes on from the last"
        " checkpoint" in process.said
    )
    assert "in waits_for_ever" in stacks.read_text()
    run(*overrides)
    assert_same(runs, undisturbed)
    assert not list(runs.glob("pretrain/*/stacks.txt")), (
        "of a finished stage nobody needs them"
    )
