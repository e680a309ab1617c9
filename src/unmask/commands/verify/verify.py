"""Whether a config trains exactly: killed and continued, on other numbers of processes; see docs/exact.md."""

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

from unmask.commands.verify.compare import Compared, closely, exactly
from unmask.commands.verify.interruptions import (
    Interruption,
    interruptions,
    steps_of,
    trained,
)
from unmask.commands.verify.supervised import Start, SupervisedRun
from unmask.config.arguments import Verify
from unmask.distributed import processes
from unmask.distributed.launcher import TRAIN
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder, read_result
from unmask.stages.plan import Plan
from unmask.storage import checkpoints

COLUMNS = ("samples", "pixels", "masks", "loss", "weights", "journal")


def start(command: list[str], told: dict[str, str], place: Path) -> Any:
    with (place / "stdout").open("w") as said, (place / "stderr").open("w") as wrong:
        return processes.start_process(command, told, stdout=said, stderr=wrong)


@dataclass(frozen=True)
class Row:
    """A line of the verdict."""

    stage: StageSpec
    against: str
    compared: Compared


class Verification:
    """Trains in ledgers below `scratch` by real commands, and compares. overrides: of the cut run, without a ledger."""

    def __init__(
        self,
        given: Verify,
        plan: Plan,
        overrides: Sequence[str],
        scratch: Path,
        console: Console,
        start: Start = start,
    ) -> None:
        self.given, self.plan, self.overrides, self.scratch = (
            given,
            plan,
            list(overrides),
            scratch,
        )
        self.console, self.start = console, start
        self.stages, self.signals = (
            trained(plan),
            processes.Forwarding(processes.SIGNALS, tuple),
        )
        # the first step that a killed run went on from
        self.resumed: dict[StageSpec, int] = {}

    def __call__(self) -> bool:
        """Prints the verdict; whether all is exact. Asked to leave it raises SystemExit with 75."""
        with self.signals:
            rows = self._trained()
        self.console.print(verdict_table(rows))
        return self.told(rows)

    def _trained(self) -> list[Row]:
        self._undisturbed("whole")
        self._disturbed("killed")
        rows = [
            Row(
                spec,
                "killed",
                exactly(self._folder("killed", spec), self._folder("whole", spec)),
            )
            for spec in self.stages
        ]
        alone = (read_result(self._folder("whole", self.stages[0])) or {}).get(
            "processes"
        )
        for count in dict.fromkeys(self.given.processes):
            if count != alone:
                self._undisturbed(name := f"on{count}", f"trainer.devices={count}")
                rows += [
                    Row(spec, name, self._closely(name, spec)) for spec in self.stages
                ]
        return rows

    def _closely(self, name: str, spec: StageSpec) -> Compared:
        folders = self._folder(name, spec), self._folder("whole", spec)
        return closely(*folders, self.given.loss_bound, self.given.weights_bound)

    def _folder(self, name: str, spec: StageSpec) -> Path:
        return StageFolder(self.scratch / name, spec).path

    @contextmanager
    def _watched(
        self, name: str, spec: StageSpec, step: int | None, *more: str
    ) -> Iterator[SupervisedRun]:
        """A start of the command in the ledger `name`; nothing of it is left running."""
        command = [
            sys.executable,
            str(TRAIN),
            *self.overrides,
            *more,
            f"runs_dir='{self.scratch / name}'",
        ]
        (place := self.scratch / f"{name}.said").mkdir(exist_ok=True)
        watched = SupervisedRun(
            self.start,
            command,
            place,
            self._folder(name, spec),
            step,
            lambda: self.signals.asked > 0,
        )
        try:
            yield watched
        finally:
            watched.kill()

    def _undisturbed(self, name: str, *more: str) -> None:
        began = time.monotonic()
        with self._watched(name, self.stages[0], None, *more) as watched:
            watched.ended(self.given.minutes)
        made = ", ".join(
            f"{steps_of(self.plan, spec.kind)[0]} of {spec.title}"
            for spec in self.stages
        )
        self._say(
            f"undisturbed{''.join(f', {each}' for each in more)}: steps {made}"
            f" ({time.monotonic() - began:.0f} s)"
        )

    def _disturbed(self, name: str) -> None:
        """Each stage interrupted again and again, and the whole at last continued to its end."""
        for spec in self.stages:
            steps, per_epoch = steps_of(self.plan, spec.kind)
            if per_epoch + 1 >= steps:
                self._say(
                    f"{spec.title}: an epoch has {per_epoch} steps, and these {steps}"
                    f" do not go beyond its end; verify.steps={per_epoch + 2} would"
                )
            for where in interruptions(steps, per_epoch, self.given.kills):
                self._interrupted(name, spec, where, per_epoch)
        with self._watched(name, self.stages[0], None) as watched:
            watched.ended(self.given.minutes)

    def _interrupted(
        self, name: str, spec: StageSpec, where: Interruption, per_epoch: int
    ) -> None:
        with self._watched(name, spec, where.step if where.held else None) as watched:
            if not watched.arrived(where, self.given.minutes):
                self._say(
                    f"{spec.title}: no interruption at step {where.step}, it ended"
                    " before"
                )
                return
            how = watched.interrupt(where.how, self.given.minutes)
            made = watched.made()
        saved = checkpoints.entries(self._folder(name, spec) / "checkpoints")
        at = saved[-1]["step"] if saved else 0
        if at:
            self.resumed.setdefault(spec, at)
        self._say(
            f"{spec.title}: {how} after step {made}{_place(made, per_epoch)}, goes on"
            f" at {at}"
        )

    def told(self, rows: list[Row]) -> bool:
        """The verdict in words."""
        for row in rows:
            for fault in row.compared.faults:
                self._say(f"{row.stage.title}, {row.against}: {fault}")
            if (
                row.against == "killed"
                and row.compared.first
                and row.compared.first <= self.resumed.get(row.stage, 0)
            ):
                self._say(
                    f"{row.stage.title}: no continuation lies before step"
                    f" {row.compared.first}: two undisturbed runs would differ, too;"
                    " look for draws of its own, or for a device whose kernels are not"
                    " deterministic"
                )
        exact = not any(row.compared.faults for row in rows)
        self._say(
            "exact"
            if exact
            else f"NOT exact; the traces and checkpoints are kept in {self.scratch}"
        )
        return exact

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def _place(step: int, per_epoch: int) -> str:
    if step % per_epoch == 0:
        return ", an epoch's last"
    return ", an epoch's first" if step % per_epoch == 1 and step > 1 else ""


def verdict_table(rows: list[Row]) -> Table:
    table = Table(
        title="Against the undisturbed run", box=SIMPLE_HEAD, title_justify="left"
    )
    for column in ("stage", "run", *COLUMNS):
        table.add_column(column, min_width=None if column == "stage" else len(column))
    for row in rows:
        table.add_row(
            row.stage.title,
            row.against,
            *(row.compared.cells.get(column, "") for column in COLUMNS),
        )
    return table
