"""The paper's tables as sweeps: any launcher, shared pretrainings, and the same numbers after any interruption."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from forked import Started
from hydra_plugins.reporting import report_command
from small_runs import ROOT, TINY, call, children, command, environment, raw_config
from unmask.config.checks import check
from unmask.reports.paper.protocol_differences import describe_differences

SMALL = [*TINY, "data.image_size=28", "labels=100", "finetune.labels=100", "seed=0"]
# UNMASK_KILLS=10 pytest tests/test_paper_sweep.py -k killed
KILLS = int(os.environ.get("UNMASK_KILLS", "2"))


def sweep_arguments(runs: Path, *more: str) -> list[str]:
    return [
        "-m",
        "experiment=mask_token",
        "scale=embedded",
        *SMALL,
        f"runs_dir={runs}",
        *more,
    ]


def report_csv(runs: Path) -> dict[str, bytes]:
    """The CSV files of the report that ended the sweep."""
    out = runs / "report" / "mask_token"
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*.csv"))
    }


def kill_after_progress(runs: Path, delay: float) -> None:
    """SIGKILL to the sweep and its cells at once, `delay` seconds after it has written a checkpoint or a result."""

    def progress() -> set[Path]:
        return {*runs.glob("*/*/checkpoints/*.ckpt"), *runs.glob("*/*/result.json")}

    before = progress()
    started = Started(
        command(*sweep_arguments(runs, "checkpoint.every_steps=1"), tiny=False),
        runs.parent,
        environment(),
    )
    while started.poll() is None and progress() <= before:
        time.sleep(0.05)
    time.sleep(delay)
    assert started.poll() is None, "ended before it could be killed"
    for pid in [started.pid, *children(started.pid)]:
        with suppress(ProcessLookupError):  # a cell that has just ended
            os.kill(pid, signal.SIGKILL)
    started.wait(timeout=60)


@pytest.mark.process
def test_a_table_that_is_killed_and_begun_again_ends_with_the_same_csv(
    tmp_path: Path,
) -> None:
    undisturbed = call(
        *sweep_arguments(tmp_path / "undisturbed"), tiny=False, process="forked"
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "4 of 4 results" in undisturbed.stdout, (
        "a sweep of tables ends with the report on them"
    )
    generator = random.Random(0)
    for _ in range(KILLS):
        kill_after_progress(tmp_path / "broken", generator.uniform(0, 1))
    last = call(*sweep_arguments(tmp_path / "broken"), tiny=False, process="forked")
    assert last.returncode == 0, last.stderr
    assert report_csv(tmp_path / "broken") == report_csv(tmp_path / "undisturbed")
    rows = (
        report_csv(tmp_path / "undisturbed")["csv/mask_token/embedded.csv"]
        .decode()
        .splitlines()
    )
    assert rows[0] == "row,column,seed,value,images,fingerprint,pretrain"
    assert len(rows) == 1 + 2 * 2


@pytest.mark.process
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_launchers_that_run_cells_in_one_process_are_refused_in_one_line(
    launcher: str, tmp_path: Path
) -> None:
    """Also with --config-dir, where only Hydra knows which choices exist."""
    for flags in ([], ["--config-dir", str(tmp_path)]):
        done = call(
            *flags,
            "-m",
            f"hydra/launcher={launcher}",
            "seed=1,2",
            f"runs_dir={tmp_path / 'runs'}",
        )
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"hydra/launcher={launcher}: ")
        assert "type hydra.launcher.n_jobs=2" in line
        assert not (tmp_path / "runs").exists()


@pytest.mark.process
def test_the_report_of_an_empty_ledger_says_what_would_fill_it(tmp_path: Path) -> None:
    done = call(
        "experiment=scaling",
        "scale=cifar",
        f"runs_dir={tmp_path}",
        f"out={tmp_path}/r",
        script="report.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 of 18 results" in done.stdout
    assert (tmp_path / "r" / "index.html").exists()
    wrong = call("experiment=scalin", script="report.py", tiny=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean scaling?" in wrong.stderr


def test_every_number_of_an_experiments_readme_is_the_mean_of_the_results_beside_it() -> (
    None
):
    for path in sorted((ROOT / "experiments").glob("*/results/*.csv")):
        table = pd.read_csv(path, dtype={"row": str})
        text = (path.parents[1] / "README.md").read_text()
        (section,) = (
            part
            for part in text.split("\n## Scale ")
            if part.startswith(f"`{path.stem}`")
        )
        lines = [line.replace("*", "") for line in section.splitlines()]
        for (row, column), found in table.groupby(["row", "column"]):
            if column in ("ft", "lin", "mae"):
                (line,) = (line for line in lines if line.startswith(f"| {row} |"))
                assert f"{found['value'].mean():.1f}" in line, (path, row, column)


@pytest.mark.parametrize(
    "key",
    [
        "pretrain.epochs=7",
        "finetune.image_size=48",
        "decoder.width=16",
        "target=dvae",
        "init_from={weights}",
        "linear_probe.pool=mean",
        "finetune.augment.jitter=0.3",
        "data.image_size=64",
        "encoder.mask_tokens=true",
        "finetune.mixup=0.1",
        "augment.flip=true",
        "loss_on=all",
        "mask_ratio=0.6",
    ],
)
def test_any_key_that_changes_results_is_a_protocol_difference(
    key: str, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"x")
    scale = ("scale=embedded", "data.image_size=32")
    changed, same = (
        check(raw_config(*scale, *more, tiny=False))
        for more in ([key.format(weights=weights)], [])
    )
    assert describe_differences({"a": (same, same)}) == []
    assert describe_differences({"a": (changed, same)}) != []
    both = describe_differences({"a": (changed, same), "b": (same, same)})
    assert all(line.startswith(("row a: ", "data: ")) for line in both), (
        "of one row alone"
    )


def test_a_small_dvae_is_always_a_protocol_difference() -> None:
    config = check(raw_config("scale=embedded", "target=dvae", tiny=False))
    assert describe_differences({"a": (config, config)}) == [
        "target: tokens of a small dVAE trained on this data (paper: DALL-E's, of 250"
        " million images)"
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["experiment=mask_token", "seed=range(2)"],
            "scale=embedded experiment=mask_token seeds=[0,1]",
        ),
        (
            [
                "experiment='mask_token,loss_on_all'",
                "scale=cifar",
                "hydra.launcher.n_jobs=2",
            ],
            "scale=cifar experiment=mask_token,loss_on_all",
        ),
        (
            ["experiment=mask_token", "pretrain.epochs=1"],
            'scale=embedded experiment=mask_token overrides=["pretrain.epochs=1"]',
        ),
        (
            ["-cd", "lab", "-m", "experiment=mask_token", "masking=mine"],
            "--config-dir=lab scale=embedded experiment=mask_token"
            ' overrides=["masking=mine"]',
        ),
        (
            ['hydra.searchpath=["file:///lab"]', "experiment=mask_token"],
            "--config-dir=/lab scale=embedded experiment=mask_token",
        ),
    ],
)
def test_the_report_gets_the_overrides_of_the_sweep(
    arguments: list[str], expected: str
) -> None:
    command = report_command(arguments)
    assert command is not None
    assert " ".join(command[2:]) == expected
    assert report_command(["experiment=mask_token", "pretrain.epochs=1,2"]) is None, (
        "a report is of one setting"
    )
    assert report_command(["decoder.depth=1,2"]) is None
