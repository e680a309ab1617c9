"""trainer.devices=2: ranks start and end together, with one result and exit code."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from forked import Started, forkserver
from small_runs import (
    ROOT,
    call,
    children,
    command,
    environment,
    has_logged,
    is_running,
)
from test_slurm import fake_scontrol, scontrol_calls
from test_together import relative_distance, weights
from unmask.distributed import collectives, launcher

pytestmark = pytest.mark.process
LONG = (
    "stages=[pretrain]",
    "pretrain.epochs=8",
    "pretrain.batch_size=400",
    "trainer.devices=2",
)
# seconds in which a training that is asked to leave ends
ENDS = 60


@contextmanager
def training(runs: Path, *more: str) -> Iterator[Started]:
    """Start a run on two processes and wait until it has made some steps."""
    process = Started(command(f"runs_dir={runs}", *LONG, *more), runs, environment())
    try:
        while not has_logged(runs, 1):
            assert process.poll() is None, process.said
            time.sleep(0.05)
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    done = call(f"runs_dir={runs}", *LONG, process="forked")
    assert done.returncode == 0, done.stderr
    return runs


def have_ended(pids: list[int]) -> bool:
    """Wait for the processes to end; False where one still runs after 20 s."""
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("receiver", "number"),
    [
        ("launcher", signal.SIGUSR1),
        ("rank zero", signal.SIGTERM),
        ("rank one", signal.SIGTERM),
    ],
)
def test_whichever_process_is_asked_to_leave_all_save_and_leave_with_75(
    receiver: str,
    number: signal.Signals,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the launcher requeues a SLURM job, and only after SLURM's own signal."""
    fake = fake_scontrol(tmp_path / "fake")
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    with training(tmp_path) as process:
        pids = children(process.pid)
        assert len(pids) == 2
        receivers = {"launcher": process.pid, "rank zero": pids[0], "rank one": pids[1]}
        os.kill(receivers[receiver], number)
        assert process.wait(timeout=ENDS) == 75
        assert have_ended(pids)
    assert scontrol_calls(fake) == (["requeue 812"] if number == signal.SIGUSR1 else [])
    (index,) = tmp_path.glob("pretrain/*/checkpoints/last.json")
    assert json.loads(index.read_text())[-1]["step"] > 0
    assert call(f"runs_dir={tmp_path}", *LONG, process="forked").returncode == 0
    assert relative_distance(weights(tmp_path), weights(undisturbed)) == 0


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    killed: int, undisturbed: Path, tmp_path: Path
) -> None:
    with training(tmp_path, "checkpoint.every_steps=7") as process:
        pids = children(process.pid)
        os.kill(pids[killed], signal.SIGKILL)
        assert process.wait(timeout=ENDS) == 1
        assert f"process {killed} was killed by SIGKILL" in process.said
        assert "the same command goes on from the last checkpoint" in process.said
        assert have_ended(pids)
    assert call(f"runs_dir={tmp_path}", *LONG, process="forked").returncode == 0
    assert relative_distance(weights(tmp_path), weights(undisturbed)) == 0


def test_a_rank_that_is_asked_while_python_starts_leaves_with_75_too(
    tmp_path: Path,
) -> None:
    starting = tmp_path / "starting.py"
    starting.write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert launcher.launch([sys.executable, str(starting)], 2, 2, None) == 75


def test_a_rank_that_leaves_with_75_lets_the_others_finish_saving(
    tmp_path: Path,
) -> None:
    saved = tmp_path / "saved"
    script = tmp_path / "leaving.py"
    script.write_text(f"""import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready = pathlib.Path({str(tmp_path / "ready")!r})
if os.environ["RANK"] == "0":
    ready.touch()
    time.sleep(2)
    pathlib.Path({str(saved)!r}).touch()
while not ready.exists():
    time.sleep(0.05)
sys.exit(75)
""")
    assert launcher.launch([sys.executable, str(script)], 2, 2, None) == 75
    assert saved.exists()


@pytest.mark.parametrize(
    ("codes", "blamed"),
    [
        ([1, 75, None], 1),
        ([1, 76, 75], 1),
        ([75, -signal.SIGKILL, 1], 1),
        ([None, 0, 1], 2),
        ([1, 1, None], 0),
    ],
)
def test_of_ranks_that_fail_together_the_likely_cause_is_named(
    codes: list[int | None], blamed: int
) -> None:
    handlers = {
        i: SimpleNamespace(proc=SimpleNamespace(poll=lambda code=code: code))
        for i, code in enumerate(codes)
    }
    context = SimpleNamespace(subprocess_handlers=handlers)
    assert launcher._wait_for_failure(context) == (blamed, codes[blamed])


def test_the_error_of_the_rank_that_fails_first_is_printed_once(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    script = tmp_path / "failing.py"
    script.write_text("""import os, sys, time
if os.environ["RANK"] == "1":
    print("hidden")
    sys.exit("the images are gone")
time.sleep(100)
""")
    assert launcher.launch([sys.executable, str(script)], 2, 2, None) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "the images are gone",
        "process 1 failed first; the others were ended",
    ]


def test_a_rank_whose_others_never_come_gives_up_and_names_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(launcher._free_port()))
    message = r"process 0 of 2 .* within 0\.01 minutes.* raise trainer\.timeout_minutes"
    with (
        pytest.raises(TimeoutError, match=message),
        collectives.process_group(0, 2, 0.01),
    ):
        pass


def work_alone(rank: int, port: int, patience: float, path: Path) -> None:
    """Let rank zero work for twice as long as the others wait for a message."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def compute(keep_alive: Callable[[], None]) -> str:
        end = time.monotonic() + 2 * patience
        while time.monotonic() < end:
            keep_alive()
            time.sleep(0.05)
        return "solved"

    with collectives.process_group(rank, 2, patience / 60):
        found = collectives.on_rank_zero_at_length(compute)
        (path / str(rank)).write_text(found)


def test_ranks_wait_for_one_that_works_alone_for_long(tmp_path: Path) -> None:
    patience = 5.0
    port = launcher._free_port()
    ranks = [
        forkserver().Process(target=work_alone, args=(rank, port, patience, tmp_path))
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        # does nothing where it has ended
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["solved"] * 2


def test_a_killed_launcher_leaves_no_process(tmp_path: Path) -> None:
    with training(tmp_path, "pretrain.epochs=4000") as process:
        pids = children(process.pid)
        assert len(pids) == 2
        process.kill()
        assert have_ended(pids)
    assert not list(tmp_path.glob("pretrain/*/result.json")), (
        "the ranks must leave, not finish"
    )


def test_a_run_has_one_table_one_page_and_one_folder_a_stage(tmp_path: Path) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "trainer.devices=2",
        "stages=[pretrain,knn]",
        "logger=wandb",
    )
    done = call(*overrides, process="forked")
    assert done.returncode == 0, done.stderr
    assert not [
        line for line in done.stderr.splitlines() if not line.startswith("wandb:")
    ]
    assert done.stdout.count("The page with curves and pictures") == 1
    assert done.stdout.count("pretrain: step 1/12") == 1
    assert len(list(tmp_path.glob("pretrain/*/wandb/offline-run-*"))) == 1
    (result,) = tmp_path.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2
    again = call(*overrides, "trainer=cpu")
    assert "ledger" in again.stdout or again.returncode == 0
    assert len(list(tmp_path.glob("pretrain/*"))) == 1, "devices change no fingerprint"


def test_a_sweep_of_such_runs_has_one_group_of_processes_a_cell(tmp_path: Path) -> None:
    done = call(
        "-m",
        f"runs_dir={tmp_path}",
        "trainer.devices=1,2",
        "decoder.depth=1,2",
        "stages=[pretrain]",
        "pretrain.epochs=1",
        process="forked",
    )
    assert done.returncode == 0, done.stderr
    num_processes = [
        json.loads(path.read_text())["processes"]
        for path in tmp_path.glob("pretrain/*/result.json")
    ]
    assert num_processes == [1, 1], "trainer.devices=2 must reuse one device's result"
    # both as the cell ends, and in the table
    assert done.stdout.count("from the ledger") == 4


def test_the_first_error_is_printed_and_tracebacks_are_in_files(tmp_path: Path) -> None:
    done = call(
        f"runs_dir={tmp_path}", *LONG, "pretrain.base_lr=1e30", process="forked"
    )
    assert done.returncode == 1
    assert "loss is nan" in done.stderr or "not finite" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("pretrain/*/error*.txt"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("trainer.devices=3",),
            (
                "pretrain.batch_size = 1000: does not split evenly on 3 processes;"
                " near: [999, 1002]"
            ),
        ),
        (
            ("trainer=ddp", "trainer.accelerator=cpu"),
            "trainer.devices = null: all GPUs, and there is none here; say how many",
        ),
        (
            (
                "trainer.devices=4",
                "stages=[scratch]",
                "labels=320",
                "finetune.mixup=0.8",
                "finetune.batch_size=32",
            ),
            (
                "scratch.batch_size = 32: does not split evenly on 4 processes in parts"
                " of 16 images that are mixed with each other; near: [64]"
            ),
        ),
        (
            ("trainer.devices=0",),
            "trainer.devices = 0: Input should be greater than or equal to 1",
        ),
    ],
)
def test_a_batch_that_does_not_split_is_refused_before_anything_starts(
    overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = call(f"runs_dir={tmp_path}", *overrides)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not list(tmp_path.glob("*/*/checkpoints"))


def test_torchrun_starts_it_as_well(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    _, *typed = command(
        f"runs_dir={tmp_path}", "stages=[pretrain]", "trainer.devices=null"
    )
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", *typed],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The page with curves and pictures") == 1
    (result,) = tmp_path.glob("pretrain/*/result.json")
    assert json.loads(result.read_text())["processes"] == 2


def test_torchrun_knows_the_options_that_the_guide_names() -> None:
    """Without them SIGUSR1, which SLURM sends, ends torchrun and not its processes."""
    from torch.distributed.run import get_args_parser

    text = (ROOT / "docs" / "devices.md").read_text()
    lines = re.findall(r"^torchrun (--.*)$", text, re.MULTILINE)
    parsed = [get_args_parser().parse_args(shlex.split(line)) for line in lines]
    assert [found.training_script for found in parsed] == ["src/train.py"] * 2
    signals = {name for found in parsed for name in found.signals_to_handle.split(",")}
    assert signals >= {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"}
    assert all(hasattr(found, "shutdown_timeout") for found in parsed)


def test_another_number_of_ranks_than_the_config_says_is_refused(
    tmp_path: Path,
) -> None:
    # as torchrun sets them
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    refused = call(f"runs_dir={tmp_path}", "stages=[pretrain]", env=ranks)
    assert refused.returncode == 2
    assert (
        "2 processes were started for trainer.devices=1 on trainer.nodes=1"
        in refused.stderr
    )
