"""Workspace and reports as code: what is written reads back, and what is sent is updated."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import internal as report_internal
from wandb_workspaces.workspaces import internal as workspace_internal

from fake_wandb import FakeWandb
from unmask.config.checks import ConfigError
from unmask.reports.dashboard.arguments import Dashboard
from unmask.reports.dashboard.command import make_dashboards
from unmask.reports.dashboard.experiment_report import dial


def arguments(runs: Path, **changed: Any) -> Dashboard:
    values = {
        "experiment": "mask_ratio",
        "scale": "embedded",
        "project": "unmask",
        "entity": None,
        "runs_dir": str(runs),
        "out": None,
        "save": False,
    }
    return Dashboard(**values | changed)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    fake = FakeWandb()
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in fake.environment().items():
        monkeypatch.setenv(name, value)
    yield fake
    wandb.teardown()
    fake.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the specs of one table."""
    runs = tmp_path_factory.mktemp("runs")
    make_dashboards(arguments(runs))
    return runs / "dashboards"


def read_report(content: dict[str, Any]) -> wr.Report:
    model = report_internal.ReportViewspec.model_validate(content)
    return wr.Report._from_model(model)


def grids(report: wr.Report) -> dict[str, wr.PanelGrid]:
    """Return the grids of panels by the stage that their run set filters by."""
    found = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    return {grid.runsets[0].name.partition(", ")[2]: grid for grid in found}


def metric_names(metrics: list[Any]) -> list[str]:
    """Return names: metrics that were read back are objects."""
    return [getattr(metric, "name", metric) for metric in metrics]


def test_the_workspace_reads_back(folder: Path) -> None:
    content = json.loads((folder / "workspace.json").read_text())
    view = workspace_internal.View.model_validate(content)
    workspace = ws.Workspace._from_model(view)
    assert workspace.project == "unmask"
    assert workspace.settings.x_axis == "trainer/global_step"
    assert workspace.settings.group_by_prefix == "first"
    assert workspace.runset_settings.pinned_columns[:3] == [
        "run:displayName",
        "config:stage.value",
        "config:start.value",
    ]
    sections = {section.name: section.panels for section in workspace.sections}
    assert list(sections)[:3] == [
        "Results: top-1 accuracy in per cent",
        "Pretraining",
        "Reconstructions",
    ]
    results = [metric_names(p.metrics) for p in sections[next(iter(sections))]]
    assert ["result/knn/val/accuracy"] in results
    assert ["result/robustness/val/accuracy"] in results
    losses = [metric_names(panel.y) for panel in sections["Pretraining"]]
    assert ["pretrain/val/loss"] in losses
    accuracies = [metric_names(panel.y) for panel in sections["Linear probe"]]
    assert ["linear_probe/val/accuracy"] in accuracies
    (browser,) = sections["Reconstructions"]
    assert browser.media_keys == ["pretrain/reconstructions"]
    assert (browser.grid_x_axis, browser.grid_y_axis) == ("step", "run")


def test_a_report_has_the_papers_numbers_and_our_runs_by_the_tables_dial(
    folder: Path,
) -> None:
    report = read_report(json.loads((folder / "mask_ratio-embedded.json").read_text()))
    assert report.title.startswith("Figure 5: ")
    (text,) = [b.text for b in report.blocks if isinstance(b, wr.MarkdownBlock)]
    # a row of the figure, and the verdicts
    assert "| **75** |" in text or "| **0.75** |" in text
    assert "claims" in text
    assert "](" not in text.replace("](http", "")
    by_stage = grids(report)
    assert set(by_stage) == {"finetune", "linear probe", "pretrain"}
    probe = by_stage["linear probe"]
    (runs,) = probe.runsets
    assert runs.groupby == ["config.mask_ratio.value"]
    for part in (
        """Metric("Tags") in ['mask_ratio']""",
        """Config("scale") == 'embedded'""",
        """Config("stage") == 'linear_probe'""",
    ):
        assert part in runs.filters
    scatter, curve, parallel = probe.panels
    assert scatter.x == wr.Config("mask_ratio")
    assert scatter.y == wr.SummaryMetric("result/linear_probe/val/accuracy")
    assert metric_names(curve.y) == ["linear_probe/val/accuracy"]
    assert metric_names([curve.groupby]) == ["mask_ratio"]
    assert curve.groupby_rangefunc == "stddev"
    columns = [column.metric for column in parallel.columns]
    assert columns[0] == wr.Config("mask_ratio")
    assert columns[-1] == scatter.y
    losses = by_stage["pretrain"].panels
    curves = [metric_names(p.y) for p in losses if isinstance(p, wr.LinePlot)]
    assert ["pretrain/val/loss"] in curves
    assert any(isinstance(panel, wr.MediaBrowser) for panel in losses)


@pytest.mark.parametrize(
    ("slug", "key"),
    [
        ("decoder_depth", "decoder.depth"),
        ("schedule", "pretrain.epochs"),
        ("mask_token", "encoder.mask_tokens"),
        ("data_augmentation", "table.data_augmentation"),
        ("reconstruction_target", "table.reconstruction_target"),
    ],
)
def test_a_table_is_charted_by_what_it_varies(slug: str, key: str) -> None:
    assert dial(slug).name == key


def test_what_is_sent_again_is_updated_and_not_doubled(
    server: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(2):
        make_dashboards(arguments(tmp_path, save=True))
        assert len(server.views) == 2
    printed = capsys.readouterr().out
    assert printed.count(f"{server.url}/me/unmask") == 4
    names = {view["displayName"]: view for view in server.views.values()}
    report = next(view for name, view in names.items() if name.startswith("Figure 5"))
    assert report["type"] == "runs"
    assert report["entityName"] == "me"
    spec = json.loads(report["spec"])
    written = json.loads(
        (tmp_path / "dashboards" / "mask_ratio-embedded.json").read_text()
    )
    kinds = [block["type"] for block in written["spec"]["blocks"]]
    assert [block["type"] for block in spec["blocks"]] == kinds
    assert names["All stages"]["type"] == "project-view"
    # another project has its own
    make_dashboards(arguments(tmp_path, save=True, experiment=None, project="other"))
    assert len(server.views) == 3
    assert not server.other_hosts


def test_without_an_account_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    with pytest.raises(ConfigError, match=r"save=true: .*wandb login"):
        make_dashboards(arguments(tmp_path, save=True))
    wandb.teardown()
    assert not list(tmp_path.glob("dashboards/*"))
