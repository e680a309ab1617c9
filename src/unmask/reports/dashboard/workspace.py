"""The project's workspace: sections of panels for each kind of stage."""

from collections.abc import Iterator
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from unmask.config.recipes import LABELLED_STAGES, TRAINED_STAGES, stage_name
from unmask.dashboards.names import STEP_AXIS

NAME = "All stages"
# W&B's grid has 24 columns
HALF = {"w": 12, "h": 8}
COLUMNS = ("stage", "start", "experiment", "scale", "seed")


def project_workspace(entity: str, project: str) -> ws.Workspace:
    """Return the workspace; it is sent nowhere."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=list(_sections()),
        settings=ws.WorkspaceSettings(x_axis=STEP_AXIS, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[f"config:{name}.value" for name in COLUMNS]
        ),
    )


def _sections() -> Iterator[ws.Section]:
    results = [
        wr.BarPlot(
            title=stage_name(kind),
            metrics=[f"result/{kind}/val/accuracy"],
            layout=wr.Layout(**HALF),
        )
        for kind in LABELLED_STAGES
    ]
    yield _section("Results: top-1 accuracy in per cent", results)
    yield _section(
        "Pretraining",
        [
            line_plot(f"pretrain/{key}")
            for key in ("train/loss", "val/loss", "gradient_norm", "watch/knn")
        ],
    )
    yield _section("Reconstructions", [reconstructions()])
    for kind in TRAINED_STAGES:
        if kind != "pretrain":
            keys = ("val/accuracy", "val/loss", "train/loss", "gradient_norm")
            plots = [line_plot(f"{kind}/{key}") for key in keys]
            yield _section(stage_name(kind).capitalize(), plots, is_open=False)
    costs = ("images_per_second", "mfu", "peak_memory_gib", "lr")
    plots = [line_plot(*[f"{kind}/{key}" for kind in TRAINED_STAGES]) for key in costs]
    yield _section("Speed, memory and learning rate", plots, is_open=False)


def _section(name: str, panels: list[Any], is_open: bool = True) -> ws.Section:
    return ws.Section(name=name, panels=panels, is_open=is_open)


def line_plot(*keys: str, group: wr.Config | None = None) -> wr.LinePlot:
    """Return the curves of metrics; group: one line a value, with its spread."""
    return wr.LinePlot(
        title=keys[0] if len(keys) == 1 else keys[0].partition("/")[2],
        x=STEP_AXIS,
        y=list(keys),
        groupby=group,
        groupby_aggfunc="mean" if group else None,
        groupby_rangefunc="stddev" if group else None,
        layout=wr.Layout(**HALF),
    )


def reconstructions() -> wr.MediaBrowser:
    """Return the pictures: a row for each run, a column for each epoch."""
    return wr.MediaBrowser(
        title="reconstructions",
        media_keys=["pretrain/reconstructions"],
        grid_x_axis="step",
        grid_y_axis="run",
        layout=wr.Layout(w=24, h=14),
    )
