"""The page of a run: one file that shows each measurement and its controls."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from small_runs import call, plan_for, run
from unmask.distributed.processes import SUMMARY_VARIABLE
from unmask.reports.run.class_figures import class_bars, confusion_matrix
from unmask.reports.run.figures import loss_curve, measurement_bars
from unmask.reports.run.page import (
    describe_measurement,
    group_measurements,
    largest_standard_error,
    write_page,
)
from unmask.reports.svg import inline_svg
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
    # four reconstructions, and the cells of kNN's confusion matrix
    assert page.count("data:image/png;base64,") == 4 + 1
    # accuracies, the curve, and what kNN got right by class and class against class
    assert page.count("<svg") == 2 + 2
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


def test_a_run_whose_page_cannot_be_written_is_finished(tmp_path: Path) -> None:
    runs, summary = tmp_path / "runs", tmp_path / "summary.json"
    runs.mkdir()
    # a file where the folder of pages should be
    (runs / "pages").touch()
    overrides = (f"runs_dir={runs}", "stages=[knn]", "controls=[]", "pretrain.epochs=1")
    done = call(*overrides, env={SUMMARY_VARIABLE: str(summary)})
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if "not written" in line]
    assert f"{runs / 'pages'}: File exists" in line
    assert "src/runs.py page" in line
    # the launcher of a sweep has the results too
    (result,) = [r for r in json.loads(summary.read_text()) if r["stage"] == "knn"]
    assert result["metrics"]["val/accuracy"] > 0


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
    svg = inline_svg("bars", lambda: measurement_bars(groups))
    assert svg is not None
    assert "88.2" in svg
    assert svg == inline_svg("bars", lambda: measurement_bars(groups))
    rows = [{"epoch": 1.0, "train/loss": 1.0}, {"epoch": 1.0, "val/loss": 0.9}]
    curve = inline_svg("loss", lambda: loss_curve(rows))
    assert curve is not None
    assert curve.startswith("<svg")


def test_figures_of_one_page_share_no_identifier_and_take_its_colour() -> None:
    rows = [{"epoch": 1.0, "train/loss": 1.0}, {"epoch": 1.0, "val/loss": 0.9}]
    names = [
        set(re.findall(r'\bid="([^"]+)"', inline_svg(name, lambda: loss_curve(rows))))
        for name in ("first", "second")
    ]
    assert names[0]
    assert not names[0] & names[1]
    svg = inline_svg("first", lambda: loss_curve(rows))
    assert "currentColor" in svg
    assert all(f'id="{used}"' in svg for used in re.findall(r'href="#([^"]+)"', svg))


def test_a_confusion_matrix_shows_the_shares_of_each_true_class() -> None:
    square = pd.DataFrame([[3, 1], [0, 5]], index=["a", "b"], columns=["a", "b"])
    axes = confusion_matrix(square).axes[0]
    assert axes.images[0].get_array().tolist() == [[75, 25], [0, 100]]
    # a share of nothing has no number
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_class_bars_stand_in_order_and_leave_out_classes_without_images() -> None:
    table = pd.DataFrame(
        {"class": ["cat", "dog", "emu"], "accuracy": [50.0, None, 80.0]}
    )
    axes = class_bars(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["emu", "cat"]
    assert [bar.get_width() for bar in axes.patches] == [80.0, 50.0]


def test_of_many_classes_the_best_and_the_worst_are_drawn() -> None:
    table = pd.DataFrame({"class": range(100), "accuracy": range(100)})
    names = [t.get_text() for t in class_bars(table).axes[0].get_yticklabels()]
    assert names == [str(i) for i in (*range(99, 87, -1), *range(11, -1, -1))]


def test_the_page_of_a_classifier_has_its_curves_and_its_classes(
    tmp_path: Path,
) -> None:
    overrides = (f"runs_dir={tmp_path}", "stages=[linear_probe]", "controls=[pixels]")
    results, plan = run(*overrides), plan_for(*overrides)
    page = write_page(plan, results, "", refresh=True).read_text()
    assert "Accuracy while the classifiers train" in page
    # the control's classes are in its folder
    assert page.count("<h2>Class by class: ") == 1
    assert "<h2>Class by class: linear probe</h2>" in page
