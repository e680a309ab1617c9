"""A report of one of the paper's tables: its numbers beside ours, and our runs."""

import re
from collections.abc import Iterator
from typing import Any

import wandb_workspaces.reports.v2 as wr

from unmask.config.experiments import read_sweep
from unmask.config.keys import known_keys
from unmask.config.paper_facts import Paper
from unmask.reports.dashboard.workspace import HALF, line_plot, reconstructions
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.tables import experiment_readme

# links of a README lead to files that are not there
HEADING_OR_LINK = re.compile(
    r"^# .*\n|!?\[([^]]*)\]\((?!https?://)[^)]*\)", re.MULTILINE
)


def experiment_report(finding: Finding, entity: str, project: str) -> wr.Report:
    """Return the report of an experiment at one scale; it is sent nowhere."""
    comparison = finding.comparison
    paper = comparison.paper
    text = experiment_readme([finding])
    return wr.Report(
        project=project,
        entity=entity,
        title=f"{paper.paper}: {paper.title} ({comparison.scale})"[:128],
        description=paper.question,
        width="fluid",
        blocks=[
            wr.TableOfContents(),
            wr.H2("Beside the paper"),
            wr.MarkdownBlock(HEADING_OR_LINK.sub(r"\1", text).strip()),
            wr.H2("Runs"),
            *_grids(paper, comparison.slug, comparison.scale),
        ],
    )


def dial(slug: str) -> wr.Config:
    """Return what a table varies, as a key of the runs' config.

    Its row's name, where it varies a part or several keys at once.
    """
    overrides = [each for cell in read_sweep(slug).cells.values() for each in cell]
    keys = {each.partition("=")[0].lstrip("+") for each in overrides} - {"stages"}
    key = next(iter(keys), "")
    is_value = len(keys) == 1 and key in known_keys() and not _is_group(key)
    return wr.Config(key if is_value else f"table.{slug}")


def _is_group(key: str) -> bool:
    """Tell whether the key chooses a file of conf/: the config has a section there."""
    return any(each.startswith(f"{key}.") for each in known_keys())


def measures(paper: Paper) -> dict[str, str]:
    """Return the stages that fill the table's columns, with their metrics."""
    return {
        column.stage: column.metric
        for column in paper.columns.values()
        if column.stage and column.metric != "seconds"
    }


def _grids(paper: Paper, slug: str, scale: str) -> Iterator[Any]:
    """Yield a grid of panels for each stage of the table, and one of pictures."""
    varied = dial(slug)
    log_x = True if paper.x_scale == "log" else None
    for stage, metric in measures(paper).items():
        result = wr.SummaryMetric(f"result/{stage}/{metric}")
        yield wr.H3(stage.replace("_", " "))
        yield wr.PanelGrid(
            runsets=[runset(slug, scale, stage, varied)],
            panels=[
                wr.ScatterPlot(
                    title=f"{paper.axis}: {metric}",
                    x=varied,
                    y=result,
                    log_x=log_x,
                    layout=wr.Layout(**HALF),
                ),
                line_plot(f"{stage}/{metric}", group=varied),
                wr.ParallelCoordinatesPlot(
                    columns=[
                        wr.ParallelCoordinatesPlotColumn(metric=varied, log=log_x),
                        wr.ParallelCoordinatesPlotColumn(metric=wr.Config("seed")),
                        wr.ParallelCoordinatesPlotColumn(
                            metric=wr.SummaryMetric("result/seconds")
                        ),
                        wr.ParallelCoordinatesPlotColumn(metric=result),
                    ],
                    layout=wr.Layout(w=24, h=8),
                ),
            ],
        )
    yield wr.H3("pretraining")
    yield wr.PanelGrid(
        runsets=[runset(slug, scale, "pretrain", varied)],
        panels=[
            line_plot("pretrain/train/loss", group=varied),
            line_plot("pretrain/val/loss", group=varied),
            reconstructions(),
        ],
    )


def runset(slug: str, scale: str, stage: str, varied: wr.Config) -> wr.Runset:
    """Return the runs of a stage in a table, the controls left out.

    Without entity and project: W&B takes the report's own. A run of several tables has
    the tags of all of them.
    """
    return wr.Runset(
        name=f"{slug}, {stage.replace('_', ' ')}",
        filters=(
            f"Tags in ['{slug}'] and Config('scale') == '{scale}'"
            f" and Config('stage') == '{stage}'"
            " and Config('start') not in ['pixels']"
        ),
        groupby=[f"config.{varied.name}"],
        order=[wr.OrderBy(wr.Config("seed"), ascending=True)],
    )
