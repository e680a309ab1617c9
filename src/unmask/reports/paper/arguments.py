"""The arguments of src/report.py."""

from typing import Annotated

from pydantic import Field, model_validator

from unmask.config.section import PathText, Section


class Report(Section):
    experiment: str
    scale: str | None
    runs_dir: PathText
    out: PathText | None
    keep: bool
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None
    overrides: list[str]

    @model_validator(mode="after")
    def check_seeds(self) -> "Report":
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: give each seed only once")
        return self
