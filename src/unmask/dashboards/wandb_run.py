"""A stage in Weights & Biases: one run, however often it was interrupted."""

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.dashboards.card import Card
from unmask.dashboards.names import (
    CAPTION,
    STEP_AXIS,
    Row,
    dashboard_row,
    result_facts,
    summary_kind,
)
from unmask.dashboards.orders import Message, Say, WandbJob
from unmask.dashboards.tables import stage_tables
from unmask.stages.ledger import read_result

if TYPE_CHECKING:
    from unmask.dashboards.follower import Media

# until W&B counts as unreachable
CONNECT_SECONDS = 30
# prefix of folders that an earlier attempt left, until this attempt's rows are written
EARLIER = "earlier-"


class WandbRun:
    """Show one run of W&B, which goes on where W&B has rows of it.

    Each attempt begins with the whole metrics log, and W&B takes what it lacks: each
    row has a fixed index in the run (W&B's _step), two a step, since a step is logged
    in training and in validation. A row that is there is never sent again: rows of a
    resumed training are bit-identical. Offline nothing is known of the run but what is
    in the folder, so each attempt writes all rows.
    """

    def __init__(self, card: Card, job: WandbJob, say: Say) -> None:
        """Use the stage's folder; W&B's own is made in it."""
        self.name = "W&B"
        self.remedy = (
            "send it later, when the stage is finished: python src/send.py"
            f" {card.folder}"
        )
        self.card = card
        self.job = job
        self.say = say
        self.online = job.online
        self.run: Any = None
        self.num_rows = 0
        # whose summaries W&B was told
        self.defined: set[str] = set()
        # folders of other attempts, kept until this attempt's file is complete
        self.earlier: list[Path] = []

    def open(self) -> None:
        # W&B writes to /tmp where it cannot make this folder; here that is an error
        (self.card.folder / "wandb").mkdir(exist_ok=True)
        self._set_aside()
        self.run = self._connect()
        self.run.define_metric(STEP_AXIS)
        self.run.define_metric("*", step_metric=STEP_AXIS, step_sync=True)
        place = self.run.url if self.online else f"{self.card.folder}/wandb"
        self._note(f"  W&B: {self.card.name}, {place}")

    def log(self, row: Row, media: "Media") -> None:
        self.num_rows += 1
        index = 2 * row["step"] + ("val/loss" in row)
        # W&B has the rows before
        if index < self.run.starting_step:
            return
        values: dict[str, Any] = dashboard_row(self.card.prefix, row)
        for key in values.keys() - self.defined:
            self._define(key)
        if media.picture:
            values[f"{self.card.prefix}/reconstructions"] = self._image(row, media)
        if media.is_final:
            values |= stage_tables(self.card.folder, self.card.prefix)
        self.run.log({**values, STEP_AXIS: row["step"]}, step=index, commit=True)

    def close(self, code: int) -> None:
        if self.run is None:
            return
        result = read_result(self.card.folder) if code == 0 else None
        if result:
            self.run.summary.update(result_facts(self.card.prefix, result))
            if self.job.sends_artifacts:
                from unmask.dashboards.artifacts import send_artifacts

                for note in send_artifacts(self.run, self.card, self.job):
                    self._note(note)
        was_there = self.run.starting_step
        self.run.finish(exit_code=code)
        for path in self.earlier:
            shutil.rmtree(path, ignore_errors=True)
        if self.job.sends_artifacts:
            earlier = ", some were before" if was_there else ""
            self._note(f"all {self.num_rows} rows are in W&B{earlier}")

    def _define(self, key: str) -> None:
        """Let W&B keep the best value of a metric beside its last one."""
        self.defined.add(key)
        if kept := summary_kind(key):
            self.run.define_metric(
                key, step_metric=STEP_AXIS, step_sync=True, summary=kept
            )

    def _note(self, text: str) -> None:
        self.say(Message("note", text))

    def _image(self, row: Row, media: "Media") -> Any:
        import wandb

        caption = CAPTION.format(epoch=row["epoch"])
        return wandb.Image(str(media.picture), caption=caption)

    def _connect(self) -> Any:
        """Start an online run, or an offline one where W&B cannot be reached.

        A dashboard is no reason to lose a training.
        """
        import wandb

        if not self.online:
            return self._init("offline")
        try:
            return self._init("online")
        # wandb raises errors of its own, of requests and of its service
        except Exception as error:
            if not self.job.falls_back:
                raise
            reason = short_reason(error)
        text = (
            f"W&B cannot be reached ({reason}); the run is logged offline in"
            f" {self.card.folder}/wandb: {self.remedy}"
        )
        self.say(Message("warning", text))
        # its service may still try
        with suppress(Exception):
            wandb.teardown()
        self._set_aside()
        self.online = False
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        card = self.card
        run = wandb.init(
            id=card.id,
            name=card.name,
            group=card.group,
            job_type=card.record.kind,
            tags=card.tags,
            notes=card.notes,
            config=card.config,
            project=self.job.project,
            entity=self.job.entity,
            dir=str(card.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            # one that an earlier try has begun is left alone
            reinit="create_new",
            settings=quiet_settings(self.job.finish_seconds),
        )
        if mode == "offline" and any(_may_be_online(path) for path in self.earlier):
            Path(run.settings.sync_file + ".synced").touch()
        return run

    def _set_aside(self) -> None:
        """Rename earlier attempts' folders, so that `wandb sync` finds one run alone.

        They are deleted only when the new run is complete.
        """
        for path in (self.card.folder / "wandb").glob("*run-*"):
            if not path.name.startswith(EARLIER):
                with suppress(FileNotFoundError):
                    path.rename(
                        path.with_name(f"{EARLIER}{time.time_ns()}-{path.name}")
                    )
        self.earlier = list((self.card.folder / "wandb").glob(f"{EARLIER}*"))


def short_reason(error: Exception) -> str:
    """Return the first line of an error from W&B, or its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def quiet_settings(finish_seconds: float) -> Any:
    """Return settings of a run that says nothing of this machine, its user or git."""
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


def _may_be_online(path: Path) -> bool:
    """Tell whether W&B may have a part of the run in this folder.

    `wandb sync` would append all rows to that part; it skips a run that is marked as
    synced.
    """
    return "offline-run-" not in path.name or any(path.glob("*.synced"))
