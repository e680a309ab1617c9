"""A question of the user's own: its columns and claims, beside its sweep.

It stands as `table:` in a file of a folder of --config-dir, experiment/<name>.yaml,
whose `sweep:` has the rows.
"""

from typing import Literal

from pydantic import Field

from unmask.config.paper_facts import OWN, Claim, Column, Form, Paper, PaperRow
from unmask.config.section import NUMBERS_AS_NAMES, Section

# of most of the paper's tables
STANDARD_COLUMNS = {
    "ft": Column(title="fine-tuning", stage="finetune", unit="top-1 %"),
    "lin": Column(title="linear probing", stage="linear_probe", unit="top-1 %"),
}


class OwnTable(Section):
    """What a question asks; its rows are those of the sweep."""

    model_config = NUMBERS_AS_NAMES

    question: str
    title: str | None = None
    axis: str = "row"
    kind: Literal["number", "case"] = "case"
    form: Form = "bars"
    x_scale: Literal["linear", "log"] = "linear"
    default: str | None = None
    columns: dict[str, Column] = Field(default=STANDARD_COLUMNS, min_length=1)
    claims: list[Claim] = Field(default_factory=list)
    note: str | None = None

    def as_paper(self, slug: str, rows: list[str]) -> Paper:
        """Return it in the form of a table of the paper, without numbers.

        Raises ValidationError where it names rows or columns that do not exist.
        """
        values: dict[str, float | None] = dict.fromkeys(self.columns)
        return Paper(
            **self.model_dump(exclude={"title", "claims", "columns"}),
            title=self.title or slug.replace("_", " ").capitalize(),
            claims=self.claims,
            columns=self.columns,
            paper=OWN,
            source="",
            protocol="",
            rows=[PaperRow(row=row, values=values) for row in rows],
        )
