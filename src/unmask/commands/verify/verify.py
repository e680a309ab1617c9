"""Verify that a config trains exactly: see docs/exact.md.

A run that is killed and continued is compared with an undisturbed one, and so are runs
on other numbers of processes.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unmask.commands.verify.arguments import Settings
from unmask.commands.verify.compare import (
    Comparison,
    compare_exactly,
    compare_within_bounds,
)
from unmask.commands.verify.interruptions import (
    Interruption,
    count_steps,
    interruptions,
    trained_stages,
)
from unmask.commands.verify.supervised import Start, SupervisedRun
from unmask.config.conf_files import CONF
from unmask.distributed import processes
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder, read_result
from unmask.stages.plan import Plan
from unmask.storage import checkpoints

TRAIN_SCRIPT = CONF.parent / "src" / "train.py"
COLUMNS = ("samples", "pixels", "masks", "loss", "weights", "metrics")
# names of runs; each has a ledger of that name in the scratch space
UNDISTURBED = "undisturbed"
KILLED = "killed"


def start_command(command: list[str], environment: dict[str, str], folder: Path) -> Any:
    """Start a command whose stdout and stderr go to files in `folder`."""
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        return processes.start_process(command, environment, stdout=out, stderr=err)


@dataclass(frozen=True)
class Row:
    """Hold a line of the verdict: how a stage of the run compares."""

    stage: StageSpec
    run: str
    comparison: Comparison


class Verification:
    """Train in ledgers below `scratch` with the real command, and compare.

    overrides: those of the shortened run, without a ledger.
    """

    def __init__(
        self,
        arguments: Settings,
        plan: Plan,
        overrides: Sequence[str],
        scratch: Path,
        console: Console,
        start: Start = start_command,
    ) -> None:
        self.arguments = arguments
        self.plan = plan
        self.overrides = list(overrides)
        self.scratch = scratch
        self.console = console
        self.start = start
        self.stages = trained_stages(plan)
        # the first step that a killed run went on from
        self.first_resumed: dict[StageSpec, int] = {}

    def __call__(self) -> bool:
        """Print the verdict and return whether the training is exact.

        Raises SystemExit(75) when it is asked to leave.
        """
        # no process is added: a signal is only noted, and the supervised run notices
        with processes.ForwardSignals():
            rows = self._train_and_compare()
        self.console.print(verdict_table(rows))
        return self.print_verdict(rows)

    def _train_and_compare(self) -> list[Row]:
        self._run_undisturbed(UNDISTURBED)
        self._run_interrupted()
        rows = []
        for spec in self.stages:
            comparison = compare_exactly(
                self._folder(KILLED, spec), self._folder(UNDISTURBED, spec)
            )
            rows.append(Row(spec, KILLED, comparison))
        result = read_result(self._folder(UNDISTURBED, self.stages[0])) or {}
        for count in dict.fromkeys(self.arguments.processes):
            # on as many processes as the undisturbed run there is nothing to learn
            if count == result.get("processes"):
                continue
            run = f"on{count}"
            self._run_undisturbed(run, f"trainer.devices={count}")
            for spec in self.stages:
                comparison = compare_within_bounds(
                    self._folder(run, spec),
                    self._folder(UNDISTURBED, spec),
                    self.arguments.loss_bound,
                    self.arguments.weights_bound,
                )
                rows.append(Row(spec, run, comparison))
        return rows

    def _folder(self, run: str, spec: StageSpec) -> Path:
        return StageFolder(self.scratch / run, spec).path

    @contextmanager
    def _supervise(
        self, run: str, spec: StageSpec, step: int | None, *overrides: str
    ) -> Iterator[SupervisedRun]:
        """Start the command in the run's ledger; at the end nothing of it is left."""
        command = [
            sys.executable,
            str(TRAIN_SCRIPT),
            *self.overrides,
            *overrides,
            f"runs_dir='{self.scratch / run}'",
        ]
        output_folder = self.scratch / f"{run}.output"
        output_folder.mkdir(exist_ok=True)
        supervised = SupervisedRun(
            self.start, command, output_folder, self._folder(run, spec), step
        )
        try:
            yield supervised
        finally:
            supervised.kill()

    def _run_undisturbed(self, run: str, *overrides: str) -> None:
        began = time.monotonic()
        with self._supervise(run, self.stages[0], None, *overrides) as supervised:
            supervised.wait_for_end(self.arguments.minutes)
        steps = ", ".join(
            f"{count_steps(self.plan, spec.kind)[0]} of {spec.title}"
            for spec in self.stages
        )
        title = ", ".join([UNDISTURBED, *overrides])
        self._print(f"{title}: steps {steps} ({time.monotonic() - began:.0f} s)")

    def _run_interrupted(self) -> None:
        """Interrupt each stage again and again, then let the run go on to its end."""
        for spec in self.stages:
            steps, per_epoch = count_steps(self.plan, spec.kind)
            if per_epoch + 1 >= steps:
                self._print(
                    f"{spec.title}: an epoch has {per_epoch} steps, and these {steps}"
                    f" do not go beyond its end; verify.steps={per_epoch + 2} would"
                )
            for interruption in interruptions(steps, per_epoch, self.arguments.kills):
                self._interrupt(spec, interruption, per_epoch)
        with self._supervise(KILLED, self.stages[0], None) as supervised:
            supervised.wait_for_end(self.arguments.minutes)

    def _interrupt(
        self, spec: StageSpec, interruption: Interruption, per_epoch: int
    ) -> None:
        minutes = self.arguments.minutes
        held_step = interruption.step if interruption.is_held else None
        with self._supervise(KILLED, spec, held_step) as supervised:
            if not supervised.wait_for(interruption, minutes):
                self._print(
                    f"{spec.title}: no interruption at step {interruption.step}, it"
                    " ended before"
                )
                return
            how = supervised.interrupt(interruption.how, minutes)
            last_step = supervised.newest_step()
        saved = checkpoints.index_entries(self._folder(KILLED, spec) / "checkpoints")
        resumed_step = saved[-1]["step"] if saved else 0
        # from step 0 it begins anew: that is no continuation
        if resumed_step:
            self.first_resumed.setdefault(spec, resumed_step)
        self._print(
            f"{spec.title}: {how} after step"
            f" {last_step}{_place_in_epoch(last_step, per_epoch)}, goes on at"
            f" {resumed_step}"
        )

    def print_verdict(self, rows: list[Row]) -> bool:
        """Print what differs and return whether nothing does."""
        for row in rows:
            for difference in row.comparison.differences:
                self._print(f"{row.stage.title}, {row.run}: {difference}")
            first_step = row.comparison.first_step
            # then continuing is not to blame
            if (
                row.run == KILLED
                and first_step
                and first_step <= self.first_resumed.get(row.stage, 0)
            ):
                self._print(
                    f"{row.stage.title}: the run was not continued before step"
                    f" {first_step}: two undisturbed runs would differ, too; look for"
                    " random numbers that do not come from the seed, or for a device"
                    " whose kernels are not deterministic"
                )
        is_exact = not any(row.comparison.differences for row in rows)
        if is_exact:
            self._print("exact")
        else:
            self._print(
                f"NOT exact; the traces and checkpoints are kept in {self.scratch}"
            )
        return is_exact

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def _place_in_epoch(step: int, per_epoch: int) -> str:
    if step % per_epoch == 0:
        return ", an epoch's last"
    return ", an epoch's first" if step % per_epoch == 1 and step > 1 else ""


def verdict_table(rows: list[Row]) -> Table:
    """Return a row for each stage of each run, beside the undisturbed run."""
    table = Table(
        title="Against the undisturbed run", box=SIMPLE_HEAD, title_justify="left"
    )
    for column in ("stage", "run", *COLUMNS):
        # stages may be folded in a narrow terminal, the rest may not
        table.add_column(column, min_width=None if column == "stage" else len(column))
    for row in rows:
        words = [row.comparison.by_column.get(column, "") for column in COLUMNS]
        table.add_row(row.stage.title, row.run, *words)
    return table
