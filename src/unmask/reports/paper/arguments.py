"""The arguments of src/report.py."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from unmask.config.section import PathText, Section

# of a table or figure, ready to include in a paper
Format = Literal["latex", "pdf", "svg", "png"]


def as_list(value: Any) -> Any:
    """Take 0,1,2 for a list, as in a sweep, and one value for a list of it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int) else value


class Report(Section):
    experiment: str
    scale: str | None
    runs_dir: PathText
    out: PathText | None
    keep: bool
    anytime: bool = False
    variance: bool = False
    seeds: (
        Annotated[
            list[Annotated[int, Field(ge=0)]],
            Field(min_length=1),
            BeforeValidator(as_list),
        ]
        | None
    )
    overrides: list[str]
    format: Annotated[list[Format], BeforeValidator(as_list)]

    @model_validator(mode="after")
    def check_seeds(self) -> "Report":
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: give each seed only once")
        return self

    @model_validator(mode="after")
    def check_anytime(self) -> "Report":
        if self.anytime and self.keep:
            raise ValueError(
                "anytime = True: verdicts that are kept are those of the scale's looks;"
                " leave out keep=true or anytime=true"
            )
        return self
