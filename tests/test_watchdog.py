"""A training that hangs is ended, with the stacks of all processes on file; one that was stopped for a while is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_runs import ROOT, environment, run
from test_resume import assert_same, undisturbed

__all__ = ["undisturbed"]
HANGS = """
import sys, time
sys.path[:0] = [{source!r}, {tests!r}]
from small_runs import run
from unmask.callbacks.journal import Journal
original = Journal.on_train_batch_end
def on_train_batch_end(self, trainer, *args):
    original(self, trainer, *args)
    if trainer.global_step == 3:
        print("between two batches", flush=True)
        time.sleep(1)
    if trainer.global_step == 6:
        waits_for_ever()
def waits_for_ever():
    print("hanging", flush=True)
    time.sleep(1000)
Journal.on_train_batch_end = on_train_batch_end
run("runs_dir={runs}", "stages=[pretrain]", "checkpoint.every_steps=2", "trainer.timeout_minutes=0.05")
"""


@pytest.mark.process
def test_a_run_that_hangs_ends_with_its_stacks_and_goes_on_but_not_one_that_was_stopped(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Stopped as by Ctrl-Z for longer than a step may take, then let go on, then hanging."""
    text = HANGS.format(source=str(ROOT / "src"), tests=str(ROOT / "tests"), runs=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", text], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "between two batches\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout.readline() == "hanging\n", "it was not ended for having been stopped"
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    (stacks,) = tmp_path.glob("pretrain/*/stacks.txt")
    assert "process 0 has not moved for 0.05 minutes after step 6, at " in said
    assert f"every thread's stack is in {stacks}; the same command goes on from the last checkpoint" in said
    assert "in waits_for_ever" in stacks.read_text()
    run(f"runs_dir={tmp_path}", "stages=[pretrain]")
    assert_same(tmp_path, undisturbed)
    assert not list(tmp_path.glob("pretrain/*/stacks.txt")), "of a finished stage nobody needs them"
