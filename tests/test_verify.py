"""src/verify.py: kills a config's real commands, continues them and says whether anything came out another way."""

import io
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from rich.console import Console

from small_runs import ROOT, TINY, command, environment, image_folder, plan_for
from unmask.commands.verify.compare import Compared, differing
from unmask.commands.verify.interruptions import How, interruptions
from unmask.commands.verify.supervised import SupervisedRun, VerifyError
from unmask.commands.verify.verify import Row, Verification
from unmask.config.arguments import Verify
from unmask.config.checks import ConfigError
from warm_commands import Started

sys.path.insert(0, str(ROOT / "src"))
from verify import asked, prepared

Starts = Callable[[list[str], dict[str, str], Path], Started]


def warm(typed: list[str], told: dict[str, str], place: Path) -> Started:
    return Started(typed, place, environment(**told))


def with_defect(name: str) -> Starts:
    def start(typed: list[str], told: dict[str, str], place: Path) -> Started:
        return warm(
            [typed[0], str(ROOT / "tests" / "defective.py"), name, *typed[2:]],
            told,
            place,
        )

    return start


def given(*own: str) -> Verify:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return asked(own)


def verdict(scratch: Path, *overrides: str, start: Starts = warm) -> tuple[bool, str]:
    """Whether it is exact, and what was printed."""
    scratch.mkdir(exist_ok=True)
    own = given(*(override for override in overrides if override.startswith("verify.")))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed, plan = prepared(
            own, [*TINY, *(o for o in overrides if not o.startswith("verify."))]
        )
    said = io.StringIO()
    exact = Verification(
        own, plan, typed, scratch, Console(file=said, width=100), start
    )()
    return exact, said.getvalue()


@pytest.mark.process
def test_a_stage_that_is_killed_everywhere_is_exact(tmp_path: Path) -> None:
    """With loader workers, accumulation and crops."""
    images = image_folder(tmp_path / "images")
    exact, said = verdict(
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
        "verify.steps=7",
        "verify.kills=4",
    )
    assert exact, said
    made = [line for line in said.splitlines() if " after step " in line]
    assert [re.sub(r"after step (\d+).*", r"\1", line) for line in made][:3] == [
        "pretrain: kill -9 of the command 2",
        "pretrain: kill -9 of the command 4",
        "pretrain: SIGTERM 5",
    ]
    assert "SIGTERM after step 5, an epoch's first, goes on at 5" in said
    assert len(made) == 4, said
    assert said.count("same") == 6, "samples, pixels, masks, loss, weights and journal"


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
    exact, said = verdict(tmp_path / "scratch", *small, start=with_defect(defect))
    assert not exact
    assert f"pretrain, killed: the first {first}" in said
    assert "final weights differ: model." in said
    assert f"are kept in {tmp_path / 'scratch'}" in said


@pytest.mark.process
def test_two_processes_are_killed_and_compared_with_one(tmp_path: Path) -> None:
    exact, said = verdict(
        tmp_path / "scratch",
        "stages=[pretrain]",
        "trainer.devices=2",
        "verify.steps=6",
        "verify.kills=1",
        "checkpoint.every_steps=1",
        "verify.processes=[1,2]",
    )
    assert exact, said
    assert "kill -9 of one process after step 2, goes on at 1" in said
    assert re.search(r"on1 +same +same +same +\d\.\de-\d+ +\d\.\de-\d+", said), said
    assert "on2" not in said, "that is what was killed"


@pytest.mark.parametrize(("first", "before"), [(3, True), (4, False)])
def test_what_differs_before_any_continuation_is_not_blamed_on_one(
    first: int, before: bool, tmp_path: Path
) -> None:
    said = io.StringIO()
    plan = plan_for("stages=[pretrain]", "stop_after=6")
    verification = Verification(
        given(), plan, [], tmp_path, Console(file=said, width=200)
    )
    verification.resumed[plan.stages[0]] = 3
    assert not verification.told(
        [Row(plan.stages[0], "killed", Compared(faults=["differs"], first=first))]
    )
    assert ("two undisturbed runs would differ, too" in said.getvalue()) == before


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
def test_places_are_in_mid_epoch_at_its_end_after_it_and_later(
    steps: int, per_epoch: int, kills: int, expected: list[int]
) -> None:
    found = interruptions(steps, per_epoch, kills)
    assert [one.step for one in found] == expected
    assert all(one.held for one in found[:-1]), (
        "the last one finds the run wherever it is"
    )
    assert all(
        one.step % per_epoch
        for one in found
        if one.how == How.SIGTERM and per_epoch > 1
    )


def test_what_differs_is_named_down_to_the_tensor() -> None:
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
    assert list(differing(ours, theirs)) == ["b.0.exp_avg", "c.1", "d", "e"]
    assert list(differing(ours, ours)) == []


class Stuck:
    """A process that neither ends nor trains, until it is killed; or one that has ended with `code`."""

    def __init__(self, place: Path, code: int | None = None, said: str = "") -> None:
        (place / "stderr").write_text(said)
        self.pid, self.code = 2**30, code

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float) -> None:
        self.code = -9


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (
            None,
            "reading images",
            "made no step for 0.001 minutes and was ended; it said:\nreading images",
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
def test_a_run_that_never_gets_there_ends_with_a_message(
    code: int | None, words: str, said: str, tmp_path: Path
) -> None:
    watched = SupervisedRun(
        lambda *_: Stuck(tmp_path, code, words),
        [],
        tmp_path,
        tmp_path / "whole" / "pretrain" / "f",
        3,
        lambda: False,
    )
    with pytest.raises(ConfigError if code == 2 else VerifyError, match=said):
        watched.arrived(interruptions(8, 4, 1)[0], minutes=0.001)


@pytest.mark.process
def test_who_is_asked_to_leave_leaves_nothing(tmp_path: Path) -> None:
    process = Started(
        command(f"verify.folder={tmp_path}", "stages=[pretrain]", script="verify.py"),
        tmp_path,
        environment(),
    )
    while not list(tmp_path.glob("unmask-verify-*/whole.said")):
        assert process.poll() is None, process.stderr.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "nothing is kept" in process.stderr.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"stdout", "stderr"}


@pytest.mark.parametrize(
    ("typed", "said"),
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
        ("hydra.job.name=x", "hydra.job.name=x: verify takes one run"),
        ("mask_ratio=2", "mask_ratio = 2: Input should be less than 1"),
        ("trainer.nodes=2", "trainer.nodes = 2: verify works on one machine"),
    ],
)
def test_what_it_cannot_take_is_refused_in_one_line(
    typed: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        verdict(tmp_path, *typed.split(), start=lambda *_: pytest.fail("started"))
    assert not list(tmp_path.iterdir())
