"""Runs small enough for tests: composed from the real conf/, in this process or as commands."""

import io
import os
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from unmask.config.checks import check
from unmask.stages.plan import Plan, make_plan
from warm_commands import Started

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


# many tests repeat a run
@cache
def _compose(overrides: tuple[str, ...], tiny: bool) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*(TINY if tiny else ()), *overrides])
    raw = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


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
    cold: bool = False,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess:
    """Run a command as a user types it.

    cold: in a fresh Python, needed where `env` has what Python itself reads at its
    start (a sitecustomize.py on PYTHONPATH is run in either case), or where the start
    is what the test is about.
    """
    typed = command(*overrides, script=script, tiny=tiny)
    variables = environment(**(env or {}))
    if cold:
        return subprocess.run(
            typed, capture_output=True, text=True, env=variables, cwd=cwd, timeout=240
        )
    with tempfile.TemporaryDirectory() as folder:
        started = Started(typed, Path(folder), variables, cwd)
        code = started.wait(timeout=240)
        return subprocess.CompletedProcess(
            typed, code, started.stdout.read_text(), started.stderr.read_text()
        )


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
