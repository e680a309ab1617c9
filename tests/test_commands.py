"""What users see when something goes wrong: one line, and an exit code that says what to do."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forked import Started
from small_runs import call, command, environment, has_logged, image_folder
from unmask.commands.cli import config_flags, parse_with_run, quote_value
from unmask.commands.measure import Measure
from unmask.commands.plan.arguments import Plan
from unmask.commands.verify.arguments import Verify
from unmask.config.checks import ConfigError
from unmask.config.section import Section

pytestmark = pytest.mark.process


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    (images / "cat" / "003.png").write_text("not an image")
    done = call(
        "data=image_folder",
        f"data.root={images}",
        "data.image_size=16",
        "data.patch_size=4",
        "data.in_memory=false",
        f"data.num_workers={workers}",
        "data.bad_limit=0",
        "stages=[pretrain]",
        f"runs_dir={tmp_path / 'runs'}",
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("1 of 18 training images (5.56%) cannot be read so far; ")
    assert "data.bad_limit=0" in line
    assert "003.png cannot be read as an image" in line


def test_an_unusable_runs_dir_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call(f"runs_dir={tmp_path / 'file'}", "stages=[pretrain]")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write in" in done.stderr
    assert "runs_dir=" in done.stderr


def test_the_multirun_flag_may_come_anywhere(tmp_path: Path) -> None:
    done = call(f"runs_dir={tmp_path}", "-m", "mask_ratio=1.5,2.5")
    assert done.returncode == 2
    assert done.stderr.count("mask_ratio = ") == 2


def test_two_processes_on_one_run_both_end_well_with_one_training(
    tmp_path: Path,
) -> None:
    arguments = (f"runs_dir={tmp_path}", "stages=[pretrain]", "pretrain.epochs=16")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: call(*arguments, process="forked"), range(2)))
    printed = [done.stdout for done in both]
    assert [done.returncode for done in both] == [0, 0]
    assert sum("waiting for process" in text for text in printed) == 1
    assert len(list(tmp_path.glob("pretrain/*"))) == 1


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)],
    ids=["Ctrl-C", "SIGTERM twice"],
)
def test_a_preempted_run_saves_and_says_how_to_go_on(
    signals: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    arguments = (f"runs_dir={tmp_path}", "stages=[pretrain]", "pretrain.epochs=60")
    process = Started(command(*arguments), tmp_path, environment())
    while not has_logged(tmp_path, 3):
        assert process.poll() is None
        time.sleep(0.05)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(timeout=60) == 75
    assert "the same command goes on from there" in process.stdout.read_text()
    assert "Traceback" not in process.stderr.read_text()
    assert list(tmp_path.glob("pretrain/*/checkpoints/*.ckpt"))


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        ("checkpoint=runs/step=00000012.ckpt", "checkpoint='runs/step=00000012.ckpt'"),
        ("checkpoint='a=b'", "checkpoint='a=b'"),
        ("mask_ratio=0.5", "mask_ratio=0.5"),
        ("--cfg=job", "--cfg=job"),
        ("augment={crop: none}", "augment={crop: none}"),
        ("seed=0,1", "seed=0,1"),
    ],
)
def test_a_value_may_hold_an_equals_sign(typed: str, passed_on: str) -> None:
    """Every checkpoint has one in its name; Hydra wants quotes around it, which shells remove."""
    assert quote_value(typed) == passed_on


def test_hydras_own_folders_may_lie_in_the_home_folder() -> None:
    home = Path.home()
    for key in ("hydra.sweep.dir", "hydra.run.dir"):
        assert quote_value(f"{key}=~/x") == f"{key}={home}/x"
        assert quote_value(f"{key}=~/a b") == f"{key}='{home}/a b'"
    assert quote_value("~decoder.depth") == "~decoder.depth"


@pytest.mark.parametrize("section", [Measure, Plan, Verify])
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hydra.job.name=x", "hydra.job.name=x: Hydra's own keys are for src/train.py"),
        (
            "hydra/launcher=proc",
            "hydra/launcher=proc: Hydra's own keys are for src/train.py",
        ),
        ("--cfg", "--cfg: there is no such option"),
    ],
)
def test_commands_about_a_run_refuse_what_they_would_ignore(
    section: type[Section], typed: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_with_run(section, ["seed=1", typed])
    assert parse_with_run(section, ["seed=1", "-m"])[1] == ["seed=1", "-m"]


def test_config_flags_are_passed_on_to_commands_that_a_command_starts() -> None:
    typed = ["-m", "--config-dir", "mine", "seed=1", "--config-name=big", "-cd=more"]
    assert config_flags(typed) == [
        "--config-dir",
        "mine",
        "--config-name=big",
        "-cd=more",
    ]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_imports_exits_with_75_and_a_line(
    number: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(f"runs_dir={tmp_path}"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    # one of the first things that are imported
    while "_yaml" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (
        75,
        "interrupted; the same command goes on from the last checkpoint\n",
    )
