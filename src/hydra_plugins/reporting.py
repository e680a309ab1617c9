"""The report beside a sweep of the paper's tables: src/report.py, told what the sweep was told."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.experiment_sweeper import seeds_of, told
from unmask.config.experiments import SMALLEST_SCALE, is_sweep

OWN = ("experiment", "scale", "runs_dir")
LEFT_OUT = ("seed", "hydra")  # how cells are launched changes no result


class Reporter:
    """Writes the report again while cells finish, one process at a time; nothing where the sweep is no table."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.command = report_command(arguments)
        self.process: subprocess.Popen | None = None

    def refresh(self) -> None:
        """In the background; a cell that finishes meanwhile is in the next one."""
        if self.command and (self.process is None or self.process.poll() is not None):
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def finish(self, show: bool) -> None:
        """Of the finished sweep, on the terminal, with the command that makes it again."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        if self.command and show:
            print(f"\npython src/report.py {shlex.join(self.command[2:])}", flush=True)
            subprocess.run(self.command, check=False)


def report_command(arguments: Sequence[str]) -> list[str] | None:
    """python src/report.py ... for the arguments of a sweep; None where these are no tables of the paper, or where an
    override has several values: a report is of one.
    """
    given = told(arguments)
    if not is_sweep(given.get("experiment", "")):
        return None
    own = {"scale": SMALLEST_SCALE} | {key: given[key] for key in OWN if key in given}
    rest = [
        a
        for a in arguments
        if "=" in a and re.split(r"[=./]", a)[0] not in (*OWN, *LEFT_OUT)
    ]
    if any(
        override.is_sweep_override()
        for override in OverridesParser.create().parse_overrides(rest)
    ):
        return None
    script = Path(__file__).parents[1] / "report.py"
    overrides = [f"overrides={json.dumps(rest)}"] if rest else []
    wanted = seeds_of(given.get("seed"))
    seeds = [f"seeds=[{','.join(map(str, wanted))}]"] if wanted else []
    return [
        sys.executable,
        str(script),
        *(f"{key}={value}" for key, value in own.items()),
        *seeds,
        *overrides,
    ]
