"""The report beside a sweep of the paper's tables: src/report.py for the same cells."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.experiment_sweeper import parse_seeds, typed_values
from unmask.config.experiments import SMALLEST_SCALE, is_sweep

REPORT_SCRIPT = Path(__file__).parents[1] / "report.py"
# keys that the report has, too
SHARED_KEYS = ("experiment", "scale", "runs_dir")
# seeds have a key of their own there, and how cells are launched changes no result
IGNORED_KEYS = ("seed", "hydra")


class Reporter:
    """Write the report again while cells finish, one process at a time.

    Does nothing where the sweep is no table of the paper.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.command = report_command(arguments)
        self.process: subprocess.Popen | None = None

    def refresh(self) -> None:
        """Write the report in the background.

        A cell that finishes meanwhile is in the next report.
        """
        is_running = self.process is not None and self.process.poll() is None
        if self.command and not is_running:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def finish(self, with_report: bool) -> None:
        """End a report in the background; print the last one and its command."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        if self.command and with_report:
            arguments = shlex.join(self.command[2:])
            print(f"\npython src/report.py {arguments}", flush=True)
            subprocess.run(self.command, check=False)


def report_command(arguments: Sequence[str]) -> list[str] | None:
    """Return the command of the report on a sweep with these arguments.

    None where they name no table of the paper, or sweep over another key: a report is
    of one setting.
    """
    values = typed_values(arguments)
    if not is_sweep(values.get("experiment", "")):
        return None
    shared = {key: values[key] for key in SHARED_KEYS if key in values}
    shared = {"scale": SMALLEST_SCALE} | shared
    others = [
        argument
        for argument in arguments
        if "=" in argument
        and re.split(r"[=./]", argument)[0] not in (*SHARED_KEYS, *IGNORED_KEYS)
    ]
    parsed = OverridesParser.create().parse_overrides(others)
    if any(override.is_sweep_override() for override in parsed):
        return None
    command = [sys.executable, str(REPORT_SCRIPT)]
    command += [f"{key}={value}" for key, value in shared.items()]
    if seeds := parse_seeds(values.get("seed")):
        command.append(f"seeds=[{','.join(map(str, seeds))}]")
    if others:
        command.append(f"overrides={json.dumps(others)}")
    return command
