"""The report beside a sweep of the paper's tables: src/report.py, told what the sweep was told."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unmask.runs.experiments import SMALLEST_SCALE, is_sweep

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
            self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self, show: bool) -> int:
        """Of the finished sweep, on the terminal, with the command that makes it again; its exit code."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        if not self.command or not show:
            return 0
        print(f"\npython src/report.py {shlex.join(self.command[2:])}", flush=True)
        return subprocess.run(self.command, check=False).returncode


def report_command(arguments: Sequence[str]) -> list[str] | None:
    """python src/report.py ... for the arguments of a sweep; None where these are no tables of the paper."""
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    if not is_sweep(given.get("experiment", "")):
        return None
    own = {"scale": SMALLEST_SCALE} | {key: given[key] for key in OWN if key in given}
    rest = [a for a in arguments if "=" in a and a.partition("=")[0].partition(".")[0] not in (*OWN, *LEFT_OUT)]
    rest = [a for a in rest if not a.startswith(LEFT_OUT[1])]
    script = Path(__file__).parents[1] / "report.py"
    overrides = [f"overrides={json.dumps(rest)}"] if rest else []
    seeds = [f"seeds=[{given['seed']}]"] if given.get("seed", "").replace(",", "").isdecimal() else []
    return [sys.executable, str(script), *(f"{key}={value}" for key, value in own.items()), *seeds, *overrides]
