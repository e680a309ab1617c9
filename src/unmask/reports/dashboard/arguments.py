"""The arguments of src/dashboard.py."""

from pydantic import Field

from unmask.config.groups import WandbName
from unmask.config.section import PathText, Section


class Dashboard(Section):
    experiment: str | None
    scale: str = Field(min_length=1)
    project: WandbName
    entity: WandbName | None
    runs_dir: PathText
    out: PathText | None
    save: bool
