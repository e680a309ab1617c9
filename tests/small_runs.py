"""Runs small enough for tests: composed from the real conf/, in this process or as commands."""

import gc
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from rich.console import Console

from forked import Started, run_script
from unmask.commands import cli
from unmask.commands.composition import Composer
from unmask.config.checks import check
from unmask.config.conf_files import own_folders, use_folders
from unmask.distributed.processes import STOP_SIGNALS, received_signals
from unmask.distributed.ranks import rank_info
from unmask.stages.plan import Plan, make_plan
from unmask.storage import checkpoints

ROOT = Path(__file__).parent.parent
TINY = (
    "model.width=16",
    "model.depth=1",
    "model.heads=2",
    "decoder.width=16",
    "decoder.depth=1",
    "decoder.heads=2",
    "data.patch_size=7",
    "pretrain.epochs=3",
    "pretrain.batch_size=1000",
    "finetune.epochs=2",
    "linear_probe.epochs=2",
    "linear_probe.batch_size=1000",
    "controls=[]",
    "watch.pictures=2",
    "watch.times=3",
    "trainer=cpu",
)
# a quarter of the patches, for tests where their number does not matter
COARSE = "data.patch_size=14"


def raw_config(*overrides: str, tiny: bool = True) -> dict[str, Any]:
    """Return what Hydra composes, as plain containers."""
    return deepcopy(_compose(overrides, tiny))


composer = Composer()


# many tests repeat a run
@cache
def _compose(overrides: tuple[str, ...], tiny: bool) -> dict[str, Any]:
    return composer([*(TINY if tiny else ()), *overrides])


def plan_for(*overrides: str, tiny: bool = True) -> Plan:
    return make_plan(check(raw_config(*overrides, tiny=tiny)))


def run(*overrides: str) -> list[dict[str, Any]]:
    """Run all stages in this process, without their output, and return their results."""
    from unmask.training.execute import execute

    return execute(plan_for(*overrides), Console(file=io.StringIO()))


def command(*overrides: str, script: str = "train.py", tiny: bool = True) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "src" / script),
        *(TINY if tiny else ()),
        *overrides,
    ]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: one thread, as tests run side by side."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **more}


def call(
    *overrides: str,
    script: str = "train.py",
    tiny: bool = True,
    process: Literal["this", "forked", "new"] = "this",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess:
    """Run a command as a user types it.

    process: this one; one forked from a process that has imported torch, which ranks
    and sweeps need (forked.py); or a newly started Python, where its start matters.
    """
    typed = command(*overrides, script=script, tiny=tiny)
    variables = environment(**(env or {}))
    if process == "new":
        return subprocess.run(
            typed, capture_output=True, text=True, env=variables, cwd=cwd, timeout=240
        )
    if process == "this":
        return run_here(typed, variables, cwd)
    with tempfile.TemporaryDirectory() as folder:
        started = Started(typed, Path(folder), variables, cwd)
        code = started.wait(timeout=240)
        return subprocess.CompletedProcess(
            typed, code, started.stdout.read_text(), started.said
        )


def run_here(
    typed: list[str], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run a command's script in this process, which is afterwards as it was before."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        restored_process(),
        patch.dict(os.environ, env, clear=True),
        chdir(cwd or Path.cwd()),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        code = run_script(typed[1:])
    return subprocess.CompletedProcess(
        typed, code, stdout.getvalue(), stderr.getvalue()
    )


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore what a command leaves behind, which counts on the end of its process."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    hydra_config = HydraConfig.instance().cfg
    python, arrays = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    received_signals.clear()
    rank_info.cache_clear()
    folders = own_folders()
    try:
        with (
            patch.object(sys, "argv", sys.argv),
            patch.object(sys, "path", [*sys.path]),
            patch.object(cli, "command_started", False),
            patch.object(warnings, "formatwarning", warnings.formatwarning),
            patch.object(logging.root, "handlers", [*logging.root.handlers]),
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):
            yield
    finally:
        gc.enable()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = hydra_config
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_num_threads(threads)
        received_signals.clear()
        rank_info.cache_clear()
        use_folders(folders)


def image_folder(
    root: Path,
    per_class: int = 10,
    classes: tuple[str, ...] = ("cat", "dog"),
    size: int = 16,
) -> Path:
    """Write class folders of small PNG files whose brightness tells the class."""
    generator = np.random.default_rng(0)
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for j in range(per_class):
            pixels = generator.integers(
                0, 100, (size, size, 3), dtype=np.uint8
            ) + np.uint8(100 * i)
            Image.fromarray(pixels).save(root / name / f"{j:03d}.png")
    return root


def stage(ledger: Path, kind: str, start: str = "pretrained") -> Path:
    """Return the folder of the one finished stage of that kind and start."""
    (folder,) = [
        path.parent
        for path in ledger.glob(f"{kind}/*/result.json")
        if json.loads(path.read_text())["start"] == start
    ]
    return folder


def load_weights(path: Path, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights whose names begin with the prefix, without it."""
    return checkpoints.strip_prefix(checkpoints.load(path)["state_dict"], prefix)


def has_logged(runs: Path, lines: int) -> bool:
    """Tell whether the metrics log of a pretraining has more lines than that."""
    return any(
        path.read_text().count("\n") > lines
        for path in runs.glob("pretrain/*/metrics.jsonl")
    )


def is_running(pid: int) -> bool:
    """Tell whether a process still runs; a zombie has ended."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Return the processes that this one has started and that still run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
