"""A stage in trackio: a local dashboard with the interface of W&B."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.dashboards.card import Card
from unmask.dashboards.names import CAPTION, Row, dashboard_row, result_facts
from unmask.stages.ledger import read_result

if TYPE_CHECKING:
    from unmask.dashboards.follower import Media


class TrackioRun:
    """Write all rows of the stage into one run, replacing that of earlier attempts."""

    def __init__(self, card: Card, project: str) -> None:
        self.name = "trackio"
        self.remedy = "an attempt that goes on writes all rows again"
        self.card = card
        self.project = project
        self.step = 0

    def open(self) -> None:
        import trackio

        self._delete_earlier()
        card = self.card
        about = {"tags": card.tags, "notes": card.notes, "id": card.id}
        trackio.init(
            project=self.project,
            name=card.name,
            group=card.group,
            config=card.config | about,
            embed=False,
            # what the machine does is no part of a stage
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, row: Row, media: "Media") -> None:
        import trackio

        self.step = row["step"]
        values: dict[str, Any] = dashboard_row(self.card.prefix, row)
        if media.picture:
            caption = CAPTION.format(epoch=row["epoch"])
            key = f"{self.card.prefix}/reconstructions"
            values[key] = trackio.Image(media.picture, caption=caption)
        trackio.log(values, step=self.step)

    def close(self, code: int) -> None:
        import trackio

        result = read_result(self.card.folder) if code == 0 else None
        if result:
            # trackio keeps no summary beside the metrics
            facts = result_facts(self.card.prefix, result).items()
            numbers = {k: v for k, v in facts if isinstance(v, int | float)}
            trackio.log(numbers, step=self.step)
        trackio.finish()

    def _delete_earlier(self) -> None:
        import trackio

        try:
            runs = list(trackio.Api().runs(self.project))
        except ValueError:
            # the project begins with this run
            return
        for run in runs:
            if (run.config or {}).get("id") == self.card.id:
                run.delete()


def refuse_missing_trackio(config: Config) -> None:
    """Raise ConfigError where trackio is asked for and not installed."""
    if config.logger.trackio and find_spec("trackio") is None:
        raise ConfigError(
            "logger=trackio: trackio is not installed here; pip install"
            " 'unmask[trackio]' (it takes Pillow below 13), or choose logger=wandb or"
            " tensorboard"
        )
