"""Show a stage in Weights & Biases: as one run, however often it was interrupted."""

import os
import shutil
import signal
import struct
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.callbacks.dashboards import Row
from unmask.config.recipes import STAGES

# Until W&B counts as unreachable.
CONNECT_SECONDS = 30
# Beyond finish_seconds, until W&B's own process is given up.
ABORT_SECONDS = 20
# Prefix of folders that an earlier attempt left, until this attempt's rows are written.
EARLIER = "earlier-"
# `wandb agent` sets them for what it starts.
AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
STEP_AXIS = "trainer/global_step"
# W&B's file is a LevelDB log: blocks of bytes that hold pieces of records.
BLOCK_BYTES = 32768
HEADER_BYTES = 7
# Kinds of pieces that end a record.
FULL_PIECE, LAST_PIECE = 1, 4


class WandbRunInfo(NamedTuple):
    """What W&B learns of a stage.

    Its fingerprint is the id of the run, so that a stage is one run of a project.
    """

    stage: str
    fingerprint: str
    group: str
    config: dict[str, Any]


class WandbRun:
    """A dashboard: one run of W&B, which goes on where W&B has rows of it.

    Each attempt begins with the whole metrics log, and W&B takes what it lacks: each
    row has a fixed index in the run (W&B's _step), two a step, since a step is logged
    in training and in validation. A row that is there is never sent again: rows of a
    resumed training are bit-identical. Offline nothing is known of the run but what is
    in the folder, so each attempt writes all rows.
    """

    def __init__(
        self,
        info: WandbRunInfo,
        folder: Path,
        project: str,
        entity: str | None,
        online: bool,
        finish_seconds: float,
    ) -> None:
        """Use the stage's `folder`; W&B's own is made in it."""
        self.name = "W&B"
        self.info = info
        self.folder = folder
        self.project = project
        self.entity = entity
        self.online = online
        self.finish_seconds = finish_seconds
        self.remedy = (
            f"send it later, when the stage is finished: python src/send.py {folder}"
        )
        self.notes: list[str] = []
        self.run: Any = None
        # Folders of other attempts, kept until this attempt's file is complete.
        self.earlier: list[Path] = []

    def open(self, rows: list[Row]) -> None:
        # W&B writes to /tmp where it cannot make this folder; here that is an error.
        (self.folder / "wandb").mkdir(exist_ok=True)
        self._set_aside()
        self.run = self._connect()
        self.run.define_metric(STEP_AXIS)
        self.run.define_metric("*", step_metric=STEP_AXIS, step_sync=True)
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        index = 2 * row["step"] + ("val/loss" in row)
        # W&B has the rows before.
        if index < self.run.starting_step:
            return
        values = {key: value for key, value in row.items() if key != "step"}
        values[STEP_AXIS] = row["step"]
        self.run.log(values, step=index, commit=True)

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
        if not self.online and not _ends_with_record(file):
            raise OSError(f"{file} is cut; is the disk full?")
        for path in self.earlier:
            shutil.rmtree(path, ignore_errors=True)

    def abort(self) -> None:
        """Kill W&B's own process, which hangs: Python would wait for it at its exit."""
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                # It may have ended meanwhile.
                with suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "wandb-core\n":
                        os.kill(int(pid), signal.SIGKILL)

    def _connect(self) -> Any:
        """Start an online run, or an offline one where W&B cannot be reached.

        A dashboard is no reason to lose a training.
        """
        if not self.online:
            return self._init("offline")
        try:
            return self._init("online")
        # wandb raises errors of its own, of requests and of its service.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        self.notes.append(
            f"W&B cannot be reached ({reason}); the run is logged offline in"
            f" {self.folder}/wandb: {self.remedy}"
        )
        with suppress(Exception):
            _end_service()
        self._set_aside()
        self.online = False
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        """Start a W&B run that says nothing of this machine, its environment or git."""
        import wandb

        info = self.info
        with _outside_agent():
            run = wandb.init(
                id=info.fingerprint,
                name=f"{info.stage}-{info.fingerprint}",
                group=info.group,
                config=info.config,
                project=self.project,
                entity=self.entity,
                dir=str(self.folder),
                mode=mode,
                resume="allow" if mode == "online" else None,
                # A run that other code has open in this process is left alone.
                reinit="create_new",
                settings=_quiet_settings(self.finish_seconds),
            )
        if mode == "offline" and any(_may_be_online(path) for path in self.earlier):
            Path(run.settings.sync_file + ".synced").touch()
        return run

    def _set_aside(self) -> None:
        """Rename earlier attempts' folders, so that `wandb sync` finds one run alone.

        They are deleted only when the new run is complete.
        """
        for path in (self.folder / "wandb").glob("*run-*"):
            if not path.name.startswith(EARLIER):
                path.rename(path.with_name(f"{EARLIER}{time.time_ns()}-{path.name}"))
        self.earlier = list((self.folder / "wandb").glob(f"{EARLIER}*"))


def report_to_agent(
    results: Iterable[dict[str, Any]], config: dict[str, Any], finish_seconds: float
) -> None:
    """Give the run that `wandb agent` has begun the final metrics of all stages.

    A sweep of W&B optimises one of them, as `linear_probe/val/accuracy`. A failure is a
    warning: the results are in the ledger.
    """
    import wandb

    values = {
        f"{name}/{metric}": value
        for result in results
        for name in [agent_name(result)]
        for metric, value in result["metrics"].items()
    }
    try:
        run = wandb.init(
            config=config,
            dir=config.get("runs_dir"),
            settings=_quiet_settings(finish_seconds),
        )
        run.log(values)
        run.finish()
    # wandb raises errors of its own, of requests and of its service.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        warnings.warn(
            f"the run of `wandb agent` got no results ({reason}); they are in the"
            f" ledger: {', '.join(values)}",
            stacklevel=2,
        )


def agent_name(result: dict[str, Any]) -> str:
    """Return a stage's name in a sweep of W&B; controls have their start in it."""
    kind, start = result["stage"], result["start"]
    return f"{kind}_{start}" if start in STAGES[kind].controls else kind


def _quiet_settings(finish_seconds: float) -> Any:
    """Return settings of a run that says nothing of this machine."""
    import wandb

    return wandb.Settings(
        init_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        finish_timeout=finish_seconds,
        finish_timeout_raises=True,
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )


@contextmanager
def _outside_agent() -> Iterator[None]:
    """Hide within that `wandb agent` has started this process.

    W&B would ignore the id and the project of a run, and write all stages into one.
    """
    hidden = {
        name: os.environ.pop(name) for name in AGENT_VARIABLES if name in os.environ
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _end_service() -> None:
    """End W&B's own process, which makes its file complete on the disk.

    Not where other code has a run open in it.
    """
    import wandb

    if wandb.run is None:
        wandb.teardown()


def _may_be_online(path: Path) -> bool:
    """Tell whether W&B may have a part of the run in this folder.

    `wandb sync` would append all rows to that part; it skips a run that is marked as
    synced.
    """
    return "offline-run-" not in path.name or any(path.glob("*.synced"))


def _ends_with_record(file: Path) -> bool:
    """Tell whether W&B's file ends where a record does.

    On a full disk it does not, and W&B reports nothing. In the file each piece of a
    record follows a header with its length and kind; no header crosses a block's end.
    """
    content = file.read_bytes()
    # The file has a header of its own, of the same size.
    position = HEADER_BYTES
    kind = 0
    while position + HEADER_BYTES <= len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left
            continue
        # Four bytes of checksum come first.
        header = content[position + 4 : position + HEADER_BYTES]
        length, kind = struct.unpack("<HB", header)
        position += HEADER_BYTES + length
    return position == len(content) and kind in (FULL_PIECE, LAST_PIECE)
