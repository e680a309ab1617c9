"""Commands as a terminal starts them: each in a Python that has imported nothing.

More such processes are in test_memory_full, test_sweep, test_launcher, test_submitit,
test_soak and wherever call() is given process="new".
"""

import subprocess
import time
from pathlib import Path

import pytest

from small_runs import COARSE, ROOT, call, command, environment, has_logged, run
from test_resume import assert_same

pytestmark = pytest.mark.process
SCRIPTS = sorted(path.name for path in (ROOT / "src").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_explains_itself(script: str) -> None:
    done = call("--help", script=script, tiny=False, process="new")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize("script", ["train.py", "report.py", "convert.py"])
def test_a_key_that_does_not_exist_is_answered_with_one_line_and_exit_code_2(
    script: str,
) -> None:
    done = call("runs_dri=here", script=script, tiny=False, process="new")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("runs_dri")


def test_a_killed_training_goes_on_to_the_weights_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    overrides = (
        "stages=[pretrain]",
        COARSE,
        "pretrain.epochs=30",
        "checkpoint.every_steps=1",
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(f"runs_dir={killed}", *overrides),
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    while not has_logged(killed, 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list(killed.glob("pretrain/*/result.json"))
    again = call(f"runs_dir={killed}", *overrides, process="new")
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stdout
    run(f"runs_dir={whole}", *overrides)
    assert_same(killed, whole)
