"""A stage's rows in Weights & Biases: one run a stage, however often it was interrupted, online and offline."""

import os
import shutil
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.callbacks.dashboards import Row

# seconds: until W&B counts as unreachable, and beyond finish_seconds until it counts as
# dead
START, GRACE = 30, 20
EARLIER = "earlier-"  # what an earlier attempt left, until this one has its rows
AXIS = "trainer/global_step"
BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4  # bytes, and kinds of pieces, of W&B's file


class RunCard(NamedTuple):
    """What W&B is told of a stage; the run's id is the fingerprint, so that one stage is one run of a project."""

    stage: str
    fingerprint: str
    group: str
    config: dict[str, Any]


class WandbRun:
    """The run goes on where W&B has rows of it: the journal is given whole each time, and W&B takes what it lacks.

    Each row has a place of its own in the run (W&B's _step), the same in every attempt: two a step, as a step is
    logged in training and in validation. What stands at a place is never sent again: rows of a resumed training are
    bit-identical. Offline nothing is known of the run but what lies in the folder, so each attempt writes all rows.
    """

    def __init__(
        self,
        card: RunCard,
        folder: Path,
        project: str,
        entity: str | None,
        online: bool,
        finish_seconds: float,
    ) -> None:
        """folder: the stage's; W&B's own is made in it."""
        self.name, self.card, self.folder, self.online = "W&B", card, folder, online
        self.project, self.entity, self.finish_seconds = project, entity, finish_seconds
        self.later = (
            f"send it later, when the stage is finished: python src/send.py {folder}"
        )
        self.notes: list[str] = []
        self.run: Any = None
        # what other attempts left; on the disk until this one's file is whole there
        self.earlier: list[Path] = []

    def open(self, rows: list[Row]) -> None:
        # where this fails W&B would write to /tmp
        (self.folder / "wandb").mkdir(exist_ok=True)
        self._set_aside()
        self.run = self._connect()
        self.run.define_metric(AXIS)
        self.run.define_metric("*", step_metric=AXIS, step_sync=True)
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        place = 2 * row["step"] + ("val/loss" in row)
        if place >= self.run.starting_step:
            values = {key: value for key, value in row.items() if key != "step"}
            self.run.log({**values, AXIS: row["step"]}, step=place, commit=True)

    def close(self, code: int) -> None:
        if self.run is None:
            return
        try:
            self.run.finish(exit_code=code)
        except BaseException:
            with suppress(Exception):
                _end_service()
            raise
        _end_service()
        file = Path(self.run.settings.sync_file)
        if not self.online and not _whole(file):
            raise OSError(f"{file} is cut; is the disk full?")
        for path in self.earlier:
            shutil.rmtree(path, ignore_errors=True)

    def abandon(self) -> None:
        """W&B's own process hangs, and Python would wait for it at its exit."""
        for children in Path("/proc/self/task").glob("*/children"):
            for number in children.read_text().split():
                with suppress(OSError):  # it has ended meanwhile
                    if Path(f"/proc/{number}/comm").read_text() == "wandb-core\n":
                        os.kill(int(number), signal.SIGKILL)

    def _connect(self) -> Any:
        """An online run, or an offline one where W&B cannot be reached: a dashboard is no reason to lose a training."""
        if not self.online:
            return self._init("offline")
        try:
            return self._init("online")
        # wandb raises its own, requests' and its service's errors
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        self.notes.append(
            f"W&B cannot be reached ({reason}); the run is logged offline in"
            f" {self.folder}/wandb: {self.later}"
        )
        with suppress(Exception):
            _end_service()
        self._set_aside()
        self.online = False
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        """Of this machine, its environment and its git nothing is told."""
        import wandb

        settings = wandb.Settings(
            init_timeout=START,
            login_timeout=START,
            finish_timeout=self.finish_seconds,
            finish_timeout_raises=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        card = self.card
        # create_new: a run that somebody else has open in this process is left alone
        run = wandb.init(
            id=card.fingerprint,
            name=f"{card.stage}-{card.fingerprint}",
            group=card.group,
            config=card.config,
            project=self.project,
            entity=self.entity,
            dir=str(self.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )
        if mode == "offline" and any(_known_to_server(path) for path in self.earlier):
            (Path(run.settings.sync_file + ".synced")).touch()
        return run

    def _set_aside(self) -> None:
        """Not deleted before the new run is whole, and not found by `wandb sync` any more."""
        for path in (self.folder / "wandb").glob("*run-*"):
            if not path.name.startswith(EARLIER):
                path.rename(path.with_name(f"{EARLIER}{time.time_ns()}-{path.name}"))
        self.earlier = list((self.folder / "wandb").glob(f"{EARLIER}*"))


def _end_service() -> None:
    """End W&B's own process: only then its file is whole on the disk. Not where somebody else's run is open in it."""
    import wandb

    if wandb.run is None:
        wandb.teardown()


def _known_to_server(path: Path) -> bool:
    """Whether W&B may have a part of the run: `wandb sync` would append all rows to it, and skips what is marked."""
    return "offline-run-" not in path.name or any(path.glob("*.synced"))


def _whole(file: Path) -> bool:
    """Whether it ends where a record does: on a full disk it does not, and W&B says nothing of it.

    It is LevelDB's log: blocks of 32 KiB with pieces of records, each with its length and kind before it.
    """
    content, place, kind = file.read_bytes(), HEADER, 0
    while place + HEADER <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + HEADER])
        place += HEADER + length
    return place == len(content) and kind in (FULL, LAST)
