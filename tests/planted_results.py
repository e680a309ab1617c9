"""Tables of the paper with planted results: the paper's numbers plus a shift and noise."""

from dataclasses import replace

import numpy as np

from unmask.config.paper_facts import Paper
from unmask.reports.paper.claims import Judging
from unmask.reports.paper.comparison import (
    Comparison,
    Finding,
    compare,
    judge_claims,
)
from unmask.reports.paper.result_rows import ResultRow

FT = {"title": "fine-tuning", "stage": "finetune", "unit": "top-1 %"}
LIN = {"title": "linear probing", "stage": "linear_probe", "unit": "top-1 %"}
COMMON = {
    "question": "How deep?",
    "source": "He et al. 2022 (arXiv 2111.06377v3)",
    "protocol": "ViT-L/16, 800 epochs",
}

# Table 1a, Fig. 7, Table 1c and Fig. 9 of He et al. 2022, the last two shortened
DEPTH = Paper.model_validate(
    {
        **COMMON,
        "title": "Decoder depth",
        "paper": "Table 1a",
        "axis": "blocks",
        "kind": "number",
        "form": "bars",
        "default": "8",
        "columns": {"ft": FT, "lin": LIN},
        "rows": [
            {"row": r, "ft": ft, "lin": lin}
            for r, ft, lin in (
                ("1", 84.8, 65.5),
                ("2", 84.9, 70.0),
                ("4", 84.9, 71.9),
                ("8", 84.9, 73.5),
                ("12", 84.4, 73.3),
            )
        ],
        "claims": [
            {
                "says": "Linear probing needs depth.",
                "column": "lin",
                "higher": ["8", "1"],
            },
            {
                "says": "12 blocks probe better than 1 by 20 points.",
                "column": "lin",
                "higher": ["12", "1"],
                "by": 20.0,
            },
            {
                "says": "Fine-tuning needs depth.",
                "column": "ft",
                "higher": ["8", "1"],
            },
            {
                "says": "Fine-tuning is as good with 12 blocks.",
                "column": "ft",
                "within": 0.4,
                "rows": ["8", "12"],
            },
        ],
    }
)
SCHEDULE = Paper.model_validate(
    {
        **COMMON,
        "title": "Schedule",
        "paper": "Figure 7",
        "axis": "epochs",
        "kind": "number",
        "form": "curve",
        "x_scale": "log",
        "default": "800",
        "columns": {"ft": FT, "lin": LIN},
        "rows": [
            {"row": r, "ft": ft, "lin": lin}
            for r, ft, lin in (
                ("100", 82.3, 57.3),
                ("200", 83.3, 64.4),
                ("400", 84.3, 69.7),
                ("800", 84.9, 73.5),
                ("1600", 85.1, 75.1),
            )
        ],
        "claims": [
            {
                "says": "Longer is better.",
                "column": "lin",
                "rising": ["100", "200", "400", "800", "1600"],
            }
        ],
    }
)
TOKEN = Paper.model_validate(
    {
        **COMMON,
        "title": "Mask | token",
        "paper": "Table 1c",
        "axis": "the encoder",
        "kind": "case",
        "form": "table",
        "default": None,
        "columns": {
            "lin": LIN,
            "hours": FT | {"title": "time", "unit": "hours", "metric": "seconds"},
            "flops": {"title": "FLOPs", "unit": "times"},
        },
        "rows": [
            {"row": "with | tokens", "lin": 59.6, "hours": 42.4, "flops": 3.3},
            {"row": "without", "lin": 73.5, "hours": 15.4, "flops": 1.0},
        ],
        "claims": [],
    }
)
PARTIAL = Paper.model_validate(
    {
        **COMMON,
        "title": "Partial fine-tuning",
        "paper": "Figure 9",
        "axis": "blocks",
        "kind": "number",
        "form": "curve",
        "default": None,
        "columns": {
            "mae": FT | {"title": "MAE", "stage": "partial_finetune"},
            "moco": {"title": "MoCo v3", "unit": "top-1 %"},
        },
        "rows": [
            {"row": "0", "mae": 73.5, "moco": 77.6, "stages": {"mae": "linear_probe"}},
            {"row": "0.5", "mae": 79.1},
            {"row": "1", "mae": 81.0, "moco": 79.9},
            {"row": "24", "mae": 84.9, "moco": 84.1},
        ],
        "claims": [
            {
                "says": "One block lifts the probe.",
                "column": "mae",
                "higher": ["1", "0"],
            }
        ],
    }
)


def results(
    paper: Paper, seeds: int = 3, rows: int | None = None, shift: float = 10.0
) -> list[ResultRow]:
    """Return results of the first `rows` rows: the paper's values plus `shift`, with a noise of 0.1 points."""
    rng = np.random.default_rng(0)
    planted = []
    for row in paper.rows[:rows]:
        for name in paper.column_stages(row):
            for seed in range(seeds):
                value = (row.values[name] or 0.0) + shift + 0.1 * rng.normal()
                planted.append(
                    ResultRow(row.row, name, seed, value, 1000, f"f{seed}", f"p{seed}")
                )
    return planted


def comparison(
    paper: Paper,
    differences: tuple[str, ...] = ("digits for ImageNet",),
    rows: int | None = None,
) -> Comparison:
    planted = results(paper, rows=rows)
    compared = compare(
        paper,
        paper.title.lower().replace(" ", "_"),
        "embedded",
        planted,
        3,
        list(differences),
    )
    # as the file of the scale has it
    judging = Judging(alike_within={"linear_probe": 1.5, "finetune": 0.6})
    return replace(compared, claims=judge_claims(paper, planted, judging))


def planted_findings() -> list[Finding]:
    """Return a table with a claim of each verdict, one without a figure, a half finished curve and an empty table."""
    finished = [
        Finding(comparison(paper), "python src/train.py -m", "1 min")
        for paper in (DEPTH, TOKEN)
    ]
    return [
        *finished,
        Finding(comparison(SCHEDULE, rows=3), "a very " + "long " * 60 + "command"),
        Finding(comparison(PARTIAL, (), rows=0), ""),
    ]
