"""The page of a run: one file that shows each measurement and its controls."""

import re
from pathlib import Path

import pytest

from small_runs import plan_for, run
from unmask.reports.run.figures import loss_curve, measurement_bars
from unmask.reports.run.page import (
    describe_measurement,
    group_measurements,
    largest_standard_error,
    write_page,
)
from unmask.stages.ledger import StageFolder


def accuracy_result(stage: str, start: str, accuracy: float) -> dict:
    return {"stage": stage, "start": start, "metrics": {"val/accuracy": accuracy}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = tmp_path_factory.mktemp("runs")
    overrides = (
        f"runs_dir={runs}",
        "stages=[pretrain,knn]",
        "controls=[random,pixels]",
    )
    run(*overrides)
    plan = plan_for(*overrides)
    results = [StageFolder(runs, spec).result() for spec in plan.stages]
    assert all(results)
    return write_page(
        plan, results, "python src/train.py stages=[pretrain,knn]", refresh=True
    ).read_text()  # type: ignore[arg-type]


def test_the_page_loads_no_other_file(page: str) -> None:
    links = re.findall(r"""(?:src|href)=["']([^"'#]+)""", page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http://" not in re.sub(
        r"http://www\.w3\.org/\S+|http://purl\.org/\S+|http://creativecommons\.org/\S+",
        "",
        page,
    )


def test_the_page_shows_pictures_curve_bars_and_the_command(page: str) -> None:
    assert page.count("data:image/png;base64,") == 4
    assert page.count("<svg") == 2
    assert "python src/train.py stages=[pretrain,knn]" in page
    for title in ("kNN", "kNN, random encoder", "kNN, raw pixels", "pretrain"):
        assert f"<td>{title}</td>" in page
    assert "the 4 of 16 patches" in page


def test_a_page_is_rewritten_only_when_results_are_new(tmp_path: Path) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[knn]",
        "controls=[]",
        "pretrain.epochs=1",
    )
    results, plan = run(*overrides), plan_for(*overrides)
    path = write_page(plan, results, "the command", refresh=False)
    path.write_text("as it was")
    assert (
        write_page(plan, results, "the command", refresh=False).read_text()
        == "as it was"
    )
    assert (
        "the command"
        in write_page(plan, results, "the command", refresh=True).read_text()
    )


def test_the_page_counts_bad_images_and_says_where_they_are_listed(
    tmp_path: Path,
) -> None:
    overrides = (
        f"runs_dir={tmp_path}",
        "stages=[knn]",
        "controls=[]",
        "pretrain.epochs=1",
    )
    results, plan = run(*overrides), plan_for(*overrides)
    results[0] |= {"bad_images": 8}
    page = write_page(plan, results, "", refresh=True).read_text()
    list_path = StageFolder(tmp_path, plan.stages[0]).path / "bad_images.jsonl"
    assert re.search(rf"8 images could not be read .*{re.escape(str(list_path))}", page)
    del results[0]["bad_images"]
    assert (
        "could not be read"
        not in write_page(plan, results, "", refresh=True).read_text()
    )


def test_training_from_scratch_is_the_random_start_of_fine_tuning() -> None:
    groups = group_measurements(
        [
            accuracy_result("finetune", "pretrained", 80),
            accuracy_result("scratch", "random", 50),
        ],
        labels=100,
    )
    assert groups == [
        {
            "kind": "finetune",
            "name": "fine-tuning on 100 labels",
            "accuracy": {"pretrained": 80, "random": 50},
        }
    ]


def test_a_measurement_below_its_control_is_reported_with_the_gap() -> None:
    group = {
        "kind": "knn",
        "name": "kNN",
        "accuracy": {"pretrained": 40.0, "random": 51.5, "pixels": 95.0},
    }
    text = describe_measurement(group)
    assert text.startswith("kNN: 40.0 %")
    assert "(-11.5 points)" in text
    assert "95.0 % on raw pixels" in text


def test_the_standard_error_is_the_binomial_one() -> None:
    assert largest_standard_error(
        [{"accuracy": {"random": 50.0, "pretrained": 90.0}}], 1000
    ) == pytest.approx(1.581, abs=1e-3)


def test_figures_are_the_same_text_for_the_same_data_and_show_every_number() -> None:
    results = [
        accuracy_result("knn", "pretrained", 88.25),
        accuracy_result("knn", "pixels", 95.25),
    ]
    groups = group_measurements(results, None)
    assert "88.2" in measurement_bars(groups)
    assert measurement_bars(groups) == measurement_bars(groups)
    rows = [{"epoch": 1.0, "train/loss": 1.0}, {"epoch": 1.0, "val/loss": 0.9}]
    assert loss_curve(rows).startswith("<svg")
