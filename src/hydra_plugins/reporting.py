"""Pages beside a sweep: its own, and src/report.py where it is a table of the paper."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.experiment_sweeper import parse_seeds, typed_values
from unmask.config.experiments import SMALLEST_SCALE, is_sweep
from unmask.config.overrides import config_folders, join_flags
from unmask.stages.sweeps import SWEEP_VARIABLE

SCRIPTS = Path(__file__).parents[1]
REPORT_SCRIPT = SCRIPTS / "report.py"
RUNS_SCRIPT = SCRIPTS / "runs.py"
# keys that the report has, too
SHARED_KEYS = ("experiment", "scale", "runs_dir")
# seeds have a key of their own there, and how cells are launched changes no result
IGNORED_KEYS = ("seed", "hydra")
# pages are not written again within so many seconds: short cells would wait for them
MIN_SECONDS = 20.0


class Background:
    """Run a command again and again, one process at a time; None does nothing."""

    def __init__(self, command: list[str] | None) -> None:
        self.command = command
        self.process: subprocess.Popen | None = None
        self.may_start_at = 0.0

    def start(self) -> None:
        """Run it silently, but not while or soon after it runs: the next shows all."""
        is_running = self.process is not None and self.process.poll() is None
        now = time.monotonic()
        if self.command and not is_running and now >= self.may_start_at:
            self.may_start_at = now + MIN_SECONDS
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def run(self) -> None:
        """Run it for the last time, and show what it prints."""
        self.stop()
        if self.command:
            subprocess.run(self.command, check=False)


class Reporter:
    """Keep the sweep's page up to date while cells finish, and the paper's table."""

    def __init__(self, arguments: Sequence[str], runs_dir: str, report: bool) -> None:
        """Write src/report.py's page after each cell only where `report` asks for it.

        arguments: of the sweep.
        """
        self.page = Background(page_command(runs_dir))
        self.table = Background(report_command(arguments))
        self.is_report_live = report

    def refresh(self) -> None:
        """Write the pages again in the background."""
        self.page.start()
        if self.is_report_live:
            self.table.start()

    def finish(self, is_complete: bool) -> None:
        """Write the pages for the last time, where no signal asks to leave at once."""
        self.page.stop()
        self.table.stop()
        if not is_complete:
            return
        self.page.run()
        if self.table.command:
            arguments = shlex.join(self.table.command[2:])
            print(f"\npython src/report.py {arguments}", flush=True)
            self.table.run()


def page_command(runs_dir: str) -> list[str] | None:
    """Return the command that writes the page of the sweep of this process.

    None where the ledger could not note the sweep.
    """
    sweep = os.environ.get(SWEEP_VARIABLE)
    if not sweep:
        return None
    return [sys.executable, str(RUNS_SCRIPT), "page", sweep, f"runs_dir={runs_dir}"]


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
        and not argument.startswith("-")
        and re.split(r"[=./]", argument)[0] not in (*SHARED_KEYS, *IGNORED_KEYS)
    ]
    parsed = OverridesParser.create().parse_overrides(others)
    if any(override.is_sweep_override() for override in parsed):
        return None
    folders = config_folders(join_flags(arguments))
    command = [sys.executable, str(REPORT_SCRIPT)]
    command += [f"--config-dir={folder}" for folder in folders]
    command += [f"{key}={value}" for key, value in shared.items()]
    if seeds := parse_seeds(values.get("seed")):
        command.append(f"seeds=[{','.join(map(str, seeds))}]")
    if others:
        command.append(f"overrides={json.dumps(others)}")
    return command
