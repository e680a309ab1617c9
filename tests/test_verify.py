"""src/verify.py kills a config's real commands, continues them and finds what differs."""

import io
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from forked import Started
from small_runs import ROOT, TINY, command, environment, image_folder, plan_for
from unmask.commands.cli import parse
from unmask.commands.verify.arguments import Settings, Verify
from unmask.commands.verify.compare import Comparison, differing_names
from unmask.commands.verify.interruptions import How, interruptions
from unmask.commands.verify.supervised import SupervisedRun, VerifyError
from unmask.commands.verify.verify import Row, Verification
from unmask.config.checks import ConfigError
from unmask.distributed.processes import received_signals

sys.path.insert(0, str(ROOT / "src"))
from verify import plan_run

Start = Callable[[list[str], dict[str, str], Path], Started]


def start_forked(
    arguments: list[str], variables: dict[str, str], folder: Path
) -> Started:
    return Started(arguments, folder, environment(**variables))


def start_with_defect(defect: str) -> Start:
    script = str(ROOT / "tests" / "defective.py")

    def start(arguments: list[str], variables: dict[str, str], folder: Path) -> Started:
        return start_forked(
            [arguments[0], script, defect, *arguments[2:]], variables, folder
        )

    return start


def arguments_of(*overrides: str) -> Settings:
    return parse(Verify, overrides).verify


def verify(
    scratch: Path, *overrides: str, start: Start = start_forked
) -> tuple[bool, str]:
    """Return whether the training is exact, and what was printed."""
    scratch.mkdir(exist_ok=True)
    own = [override for override in overrides if override.startswith("verify.")]
    others = [override for override in overrides if override not in own]
    arguments = arguments_of(*own)
    run_overrides, plan = plan_run(arguments, [*TINY, *others])
    output = io.StringIO()
    console = Console(file=output, width=100)
    verification = Verification(arguments, plan, run_overrides, scratch, console, start)
    return verification(), output.getvalue()


@pytest.mark.process
def test_a_stage_that_is_killed_at_every_place_is_exact(tmp_path: Path) -> None:
    """With loader workers, accumulation and crops."""
    images = image_folder(tmp_path / "images")
    exact, printed = verify(
        tmp_path / "scratch",
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        "data.num_workers=1",
        "augment=crop_random",
        "pretrain.batch_size=4",
        "trainer.micro_batch=2",
        "stages=[pretrain,knn]",
        "knn.k=5",
        "verify.steps=7",
        "verify.kills=4",
    )
    assert exact, printed
    lines = [line for line in printed.splitlines() if " after step " in line]
    assert [re.sub(r"after step (\d+).*", r"\1", line) for line in lines][:3] == [
        "pretrain: kill -9 of the command 2",
        "pretrain: kill -9 of the command 4",
        "pretrain: SIGTERM 5",
    ]
    assert "SIGTERM after step 5, an epoch's first, goes on at 5" in printed
    assert len(lines) == 4, printed
    assert printed.count("same") == 6, "samples, pixels, masks, loss, weights, metrics"


@pytest.mark.process
@pytest.mark.parametrize(
    ("defect", "first"),
    [
        (
            "order",
            "step that differs is 2, in its samples and pixels and masks and loss",
        ),
        ("moments", "step that differs is 3, in its loss"),
    ],
)
def test_a_planted_defect_is_found_and_named(
    defect: str, first: str, tmp_path: Path
) -> None:
    small = (
        "stages=[pretrain]",
        "verify.steps=6",
        "verify.kills=1",
        "checkpoint.every_steps=1",
    )
    exact, printed = verify(
        tmp_path / "scratch", *small, start=start_with_defect(defect)
    )
    assert not exact
    assert f"pretrain, killed: the first {first}" in printed
    assert "final weights differ: model." in printed
    assert f"are kept in {tmp_path / 'scratch'}" in printed


@pytest.mark.process
def test_two_processes_are_killed_and_compared_with_one(tmp_path: Path) -> None:
    exact, printed = verify(
        tmp_path / "scratch",
        "stages=[pretrain]",
        "trainer.devices=2",
        "verify.steps=6",
        "verify.kills=1",
        "checkpoint.every_steps=1",
        "verify.processes=[1,2]",
    )
    assert exact, printed
    assert "kill -9 of one process after step 2, goes on at 1" in printed
    assert re.search(r"on1 +same +same +same +\d\.\de-\d+ +\d\.\de-\d+", printed), (
        printed
    )
    assert "on2" not in printed, "that is what was killed"


@pytest.mark.parametrize(("first", "before"), [(3, True), (4, False)])
def test_a_difference_before_any_continuation_is_not_blamed_on_one(
    first: int, before: bool, tmp_path: Path
) -> None:
    output = io.StringIO()
    plan = plan_for("stages=[pretrain]", "stop_after=6")
    console = Console(file=output, width=200)
    verification = Verification(arguments_of(), plan, [], tmp_path, console)
    verification.first_resumed[plan.stages[0]] = 3
    comparison = Comparison(differences=["differs"], first_step=first)
    assert not verification.print_verdict([Row(plan.stages[0], "killed", comparison)])
    assert ("two undisturbed runs would differ" in output.getvalue()) == before


@pytest.mark.parametrize(
    ("steps", "per_epoch", "kills", "expected"),
    [
        (30, 8, 4, [4, 8, 9, 19]),
        (30, 312, 4, [7, 15, 22, 26]),
        (12, 4, 2, [2, 4]),
        (9, 1, 4, [1, 2, 5]),
        (30, 4, 6, [2, 4, 5, 11, 17, 23]),
        (2, 100, 9, [1]),
    ],
)
def test_interruptions_are_in_mid_epoch_at_its_end_after_it_and_later(
    steps: int, per_epoch: int, kills: int, expected: list[int]
) -> None:
    planned = interruptions(steps, per_epoch, kills)
    assert [each.step for each in planned] == expected
    assert all(each.is_held for each in planned[:-1]), (
        "the last one finds the run wherever it is"
    )
    assert all(
        each.step % per_epoch
        for each in planned
        if each.how == How.SIGTERM and per_epoch > 1
    )


def test_differences_are_named_down_to_the_tensor() -> None:
    ours = {
        "a": torch.zeros(2),
        "b": {0: {"exp_avg": torch.ones(1)}},
        "c": [1, 2.0],
        "d": 1,
    }
    theirs = {
        "a": torch.zeros(2),
        "b": {0: {"exp_avg": torch.zeros(1)}},
        "c": [1, 2.5],
        "e": 1,
    }
    assert list(differing_names(ours, theirs)) == ["b.0.exp_avg", "c.1", "d", "e"]
    assert list(differing_names(ours, ours)) == []


class Stuck:
    """A process that neither ends nor trains until it is killed, or one that has ended."""

    def __init__(self, folder: Path, code: int | None = None, stderr: str = "") -> None:
        (folder / "stderr").write_text(stderr)
        self.pid, self.code = 2**30, code

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float) -> None:
        self.code = -9


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (
            None,
            "reading images",
            "made no progress for 0.001 minutes, so it was killed; it printed:\nreading images",
        ),
        (
            1,
            "cannot write x: No space left on device",
            "give a folder on a larger disk, verify.folder=/path/to/folder",
        ),
        (
            2,
            "trainer.accelerator = gpu: torch finds no GPU here",
            "^trainer.accelerator = gpu: torch finds no GPU here$",
        ),
    ],
)
def test_a_run_that_never_reaches_its_step_ends_with_a_message(
    code: int | None, stderr: str, message: str, tmp_path: Path
) -> None:
    received_signals.clear()
    supervised = SupervisedRun(
        lambda *_: Stuck(tmp_path, code, stderr),
        [],
        tmp_path,
        tmp_path / "undisturbed" / "pretrain" / "f",
        3,
    )
    with pytest.raises(ConfigError if code == 2 else VerifyError, match=message):
        supervised.wait_for(interruptions(8, 4, 1)[0], minutes=0.001)


@pytest.mark.process
def test_a_verification_that_is_asked_to_leave_keeps_nothing(tmp_path: Path) -> None:
    process = Started(
        command(f"verify.folder={tmp_path}", "stages=[pretrain]", script="verify.py"),
        tmp_path,
        environment(),
    )
    while not list(tmp_path.glob("unmask-verify-*/undisturbed.output")):
        assert process.poll() is None, process.stderr.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "nothing is kept" in process.stderr.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"stdout", "stderr"}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "verify.steps=1",
            "verify.steps = 1: Input should be greater than or equal to 2",
        ),
        ("verify.folder=/nowhere", "verify.folder = /nowhere: no such folder"),
        (
            "verify.processes=[3]",
            "pretrain.batch_size = 1000: does not split evenly on 3 processes",
        ),
        ("verify.loss_bound=0", "verify.loss_bound = 0"),
        ("stop_after=3", "stop_after=3: verify.steps says how many steps are made"),
        ("seed=0,1", "seed=0,1 is many runs; verify takes one"),
        ("experiment=all", "experiment=all is many runs"),
        (
            "experiment=decoder_depth scale=embedded",
            "is a table of 5 runs; verify takes one",
        ),
        ("-m", "-m: verify takes one run"),
        ("mask_ratio=2", "mask_ratio = 2: Input should be less than 1"),
        ("trainer.nodes=2", "trainer.nodes = 2: verify works on one machine"),
    ],
)
def test_runs_that_cannot_be_verified_are_refused_in_one_line(
    typed: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        verify(tmp_path, *typed.split(), start=lambda *_: pytest.fail("started"))
    assert not list(tmp_path.iterdir())
