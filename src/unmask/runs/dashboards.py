"""What the config says of the dashboards that show a run."""

from typing import Any, Literal

from pydantic import Field

from unmask.runs.recipes import Part, Positive


class Wandb(Part):
    project: str = Field(description="W&B project")
    entity: str | None = Field(description="W&B user or team; null: the account's own")
    mode: Literal["offline", "online"] = Field(description="offline needs no account and no network")
    finish_seconds: Positive = Field(description="how long the end of a stage waits for W&B to take the last rows")


class Tensorboard(Part):
    name: str = Field(description="sub-folder of the stage's folder")


class Loggers(Part):
    csv: dict[str, Any] | None = Field(default=None, description="metrics.csv is always written")
    wandb: Wandb | None = None
    tensorboard: Tensorboard | None = None
