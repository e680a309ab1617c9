"""The paper's tables and figures: their numbers, and what the paper claims of them.

experiments/<slug>/paper.yaml holds one of them, in the form of `Paper`.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from unmask.config.recipes import StageName
from unmask.config.section import NUMBERS_AS_NAMES, NonNegative, Positive, Section

Form = Literal["bars", "curve", "table"]
# in place of a table's number, of a question that the paper does not ask
OWN = "own question"


class Column(Section):
    """A column of the table.

    One with neither `stage` nor `counted` has the paper's numbers only.
    """

    title: str
    unit: str
    stage: StageName | None = None
    metric: str = "val/accuracy"  # of result.json's metrics, or "seconds"
    # our value is counted on the model, as a multiple of the default row's
    counted: Literal["training_flops"] | None = None


class Claim(Section):
    """A statement of the paper on one column, as inequalities between rows.

    Margins are in points of the column's unit.
    """

    model_config = NUMBERS_AS_NAMES

    says: str
    column: str
    # one of these five, `within` together with `rows`
    best: str | None = None
    rising: list[str] | None = None
    falling: list[str] | None = None
    higher: list[str] | None = None  # the first above the second, by more than `by`
    by: NonNegative = 0.0
    within: Positive | None = None
    rows: list[str] | None = None

    @model_validator(mode="after")
    def check_form(self) -> "Claim":
        forms = [self.best, self.rising, self.falling, self.higher, self.within]
        if sum(form is not None for form in forms) != 1:
            raise ValueError(
                f"claim {self.says!r}: give exactly one of best, rising, falling,"
                " higher, within"
            )
        if (self.within is None) != (self.rows is None):
            raise ValueError(
                f"claim {self.says!r}: within and rows belong together; give both or"
                " neither"
            )
        named = self.higher or self.rising or self.falling or self.rows
        if not self.best and (
            len(set(named or [])) < 2 or len(self.higher or "ab") > 2
        ):
            raise ValueError(
                f"claim {self.says!r} is about {named}: name two rows or more, and of"
                " higher two"
            )
        if self.by and self.higher is None:
            raise ValueError(
                f"claim {self.says!r}: by = {self.by:g} is a margin of higher alone;"
                " leave it out"
            )
        return self

    @property
    def named_rows(self) -> list[str]:
        """List the rows that the claim names."""
        if self.best:
            return [self.best]
        return self.rising or self.falling or self.higher or self.rows or []


class PaperRow(Section):
    """A row of the table: its label, and the paper's value in each column."""

    row: str
    # None: the paper does not report it
    values: dict[str, float | None]
    # columns of this row that another stage fills than the column's own
    stages: dict[str, StageName] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def gather_values(cls, content: Any) -> Any:
        """Collect the columns in `values`: in the file they stand beside the label."""
        if "values" in content:
            return content
        fields = {key: content[key] for key in ("row", "stages") if key in content}
        values = {key: value for key, value in content.items() if key not in fields}
        return fields | {"values": values}


class Paper(Section):
    """One table or figure of the paper."""

    title: str
    paper: str  # where it stands: Table 1a
    question: str
    source: str
    protocol: str
    axis: str
    kind: Literal["number", "case"]
    form: Form
    x_scale: Literal["linear", "log"] = "linear"
    default: str | None
    columns: dict[str, Column]
    rows: list[PaperRow]
    claims: list[Claim]
    note: str | None = None
    # what differs from the paper at every scale of ours
    unlike: list[str] = Field(default_factory=list)

    @property
    def is_own(self) -> bool:
        """Tell whether it is a question of the user's: the paper has no numbers."""
        return self.paper == OWN

    @property
    def label(self) -> str:
        """Return what it is called among others: Table 1a, or the question's title."""
        return self.title if self.is_own else self.paper

    def row(self, label: str) -> PaperRow:
        """Return the row with that label; KeyError where there is none."""
        return {row.row: row for row in self.rows}[label]

    def column_stages(self, row: PaperRow) -> dict[str, str]:
        """Return which stage fills each of our columns in this row.

        A column whose value is null in the file belongs to it: the paper does not
        report that number, and we measure it.
        """
        stages = {
            name: row.stages.get(name) or column.stage
            for name, column in self.columns.items()
        }
        return {
            name: stage
            for name, stage in stages.items()
            if stage and (name in row.values or name in row.stages)
        }

    @model_validator(mode="after")
    def check_numbers(self) -> "Paper":
        """Refuse rows that have no place on an axis of numbers."""
        if self.form == "curve" and self.kind == "number":
            for row in self.rows:
                try:
                    float(row.row)
                except ValueError:
                    raise ValueError(
                        f"kind = number, but row {row.row!r} is none: it has no place"
                        " on a curve; write kind: case, or form: bars"
                    ) from None
        return self

    @model_validator(mode="after")
    def check_references(self) -> "Paper":
        """Refuse rows and columns that are named somewhere and do not exist."""
        labels = [row.row for row in self.rows]
        rows = [row for claim in self.claims for row in claim.named_rows]
        if self.default is not None:
            rows.append(self.default)
        columns = [claim.column for claim in self.claims]
        columns += [name for row in self.rows for name in row.values]
        unknown = [f"row {row}" for row in rows if row not in labels]
        unknown += [f"column {name}" for name in columns if name not in self.columns]
        if unknown:
            raise ValueError(
                f"{self.paper}: unknown {unknown[0]}; known rows: {labels}; known"
                f" columns: {list(self.columns)}"
            )
        return self
