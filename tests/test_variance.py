"""Where variance comes from: planted components are found, with honest intervals."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from small_runs import ROOT, call, plan_for, run
from unmask.config.schema import Config
from unmask.reports.paper import components
from unmask.reports.paper.result_rows import ResultRow
from unmask.reports.paper.variance import (
    Measured,
    _difference,
    _image_sources,
    _read_hits,
    _runs_on_one_encoder,
)
from unmask.stages.ledger import StageFolder
from unmask.stages.records import read_ledger

TABLES = 1000


def covered(low: list[float], high: list[float], truth: float) -> float:
    return float(np.mean([a <= truth <= b for a, b in zip(low, high, strict=True)]))


def test_a_pooled_variance_is_the_mean_of_the_rows_with_several_seeds() -> None:
    found = components.pooled([[1.0, 3.0], [5.0, 5.0, 8.0], [100.0]])
    assert found is not None
    assert found.df == 3
    assert found.variance == pytest.approx((2.0 + 6.0) / 3)
    assert components.pooled([[1.0], [2.0]]) is None


def test_intervals_of_seeds_cover_the_truth_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(0)
    found = [
        components.pooled(list(generator.normal(80, 2.0, size=(10, 3))))
        for _ in range(TABLES)
    ]
    known = [each for each in found if each]
    share = covered([c.low for c in known], [c.high for c in known], 4.0)
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize("own", [0.2, 1.0, 3.0])
def test_so_do_those_of_what_the_pretraining_adds(own: float) -> None:
    """3 points of pretraining's; the stage's own seed adds less, or as much."""
    generator = np.random.default_rng(1)
    lows, highs = [], []
    for _ in range(TABLES):
        total = components.pooled(
            list(generator.normal(0, np.hypot(3.0, own), size=(10, 3)))
        )
        part = components.pooled(list(generator.normal(0, own, size=(3, 4))))
        assert total
        assert part
        apart = components.excess(total, part)
        lows.append(apart.low)
        highs.append(apart.high)
    assert 0.92 <= covered(lows, highs, 9.0) <= 0.99


def test_nothing_is_left_where_the_part_is_as_large_as_the_whole() -> None:
    one = components.pooled([[1.0, 3.0], [2.0, 4.0]])
    assert one
    apart = components.excess(one, one)
    assert (apart.variance, apart.low) == (0.0, 0.0)
    assert apart.high > 0


def planted(
    generator: np.random.Generator, difficulty: np.ndarray, seeds: int = 3
) -> np.ndarray:
    """Return whether each seed is right about each image, of that chance, in per cent."""
    chances = np.broadcast_to(difficulty, (seeds, len(difficulty)))
    return 100.0 * (generator.random(chances.shape) < chances)


def test_what_seeds_share_is_the_images_own_part() -> None:
    """Images of chance 0.2 or 1: of a level their difficulty has sd 40 points."""
    generator = np.random.default_rng(2)
    images = 500
    truth = 40.0**2 / images
    found = []
    for _ in range(40):
        hard = generator.random(images) < 0.5
        table = planted(generator, np.where(hard, 0.2, 1.0))
        component = components.of_images([table])
        assert component
        found.append(component)
    mean = np.mean([component.variance for component in found])
    assert mean == pytest.approx(truth, rel=0.05)
    share = covered([c.low for c in found], [c.high for c in found], truth)
    assert share >= 0.8


def test_a_difference_of_rows_has_no_part_of_images_that_are_as_hard_for_both() -> None:
    generator = np.random.default_rng(3)
    hard = np.where(generator.random(2000) < 0.5, 0.2, 1.0)
    a, b = (planted(generator, hard) for _ in range(2))
    level, difference = components.of_images([a, b]), components.of_images([a - b])
    assert level
    assert difference
    assert difference.variance < 0.1 * level.variance
    assert components.of_images([a[:1]]) is None


def test_a_binomial_variance_is_largest_at_half() -> None:
    assert components.binomial([50.0], 100) == pytest.approx(25.0)
    assert components.binomial([50.0, 100.0], 100) == pytest.approx(12.5)


def plant_of_other(
    name: str, value: dict[str, Any], seed: int, probe: dict[str, Any], runs: Path
) -> None:
    """Copy a probe to one whose science has another value of `name`."""
    source = runs / "linear_probe" / probe["fingerprint"]
    copy = source.with_name(f"{name}{seed}".ljust(12, "0"))
    shutil.copytree(source, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["science"][name] |= value
    (copy / "config.yaml").write_text(yaml.safe_dump(config))


def results_of(runs: Path, right: dict[int, list[bool]], row: str) -> list[ResultRow]:
    """Write predictions of each seed; a result without a file for those without any."""
    results = []
    for seed, hits in right.items():
        result = ResultRow(row, "ft", seed, 50.0, 4, f"{row}{seed}", "")
        results.append(result)
        if hits:
            folder = runs / "finetune" / result.fingerprint
            folder.mkdir(parents=True)
            table = pd.DataFrame({"label": 1, "predicted": np.array(hits, dtype=int)})
            table.to_csv(folder / "predictions.csv", index=False)
    return results


def test_differences_are_those_of_the_seeds_that_both_rows_have(
    tmp_path: Path,
) -> None:
    """By position seed 1 would meet seed 0, and seed 2 meet seed 1."""
    one, two, three = [True, False, True, False], [True, True, False, False], [True] * 4
    a = results_of(tmp_path, {0: [], 1: one, 2: two}, "a")
    b = results_of(tmp_path, {0: three, 1: one, 2: two}, "b")
    hits = [_read_hits("finetune", row, tmp_path) for row in (a, b)]
    difference = _difference(*hits)
    assert list(difference) == [1, 2]
    assert not any(each.any() for each in difference.values())


def test_predictions_of_another_number_of_images_are_left_out(tmp_path: Path) -> None:
    four, three = [True, False, True, False], [True, True, False]
    a = results_of(tmp_path, {0: four, 1: four}, "a")
    b = results_of(tmp_path, {0: three, 1: three, 2: four}, "b")
    a_key, b_key = ("a",), ("b",)
    measured = Measured({a_key: a, b_key: b}, [(b_key, a_key)])
    _, level, difference = _image_sources("finetune", measured, tmp_path)
    assert level.seen_in == "1 row, image by image"
    assert level.component
    assert difference.component is None


def test_overrides_of_the_report_count_for_runs_on_one_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def find(findings: object, ledger: object, configs: dict[str, Config]) -> list:
        seen.extend(config.linear_probe.base_lr for config in configs.values())
        return []

    monkeypatch.setattr("unmask.reports.paper.variance.find_variances", find)
    done = call(
        "experiment=mask_ratio",
        "scale=embedded",
        "variance=true",
        "overrides=[linear_probe.base_lr=0.125]",
        f"runs_dir={tmp_path}",
        script="report.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    assert seen == [0.125]


def test_seeds_of_a_stage_on_one_encoder_are_found_in_the_ledger(
    tmp_path: Path,
) -> None:
    place = f"runs_dir={tmp_path}"
    coarse = ("data.patch_size=14", "pretrain.epochs=1", place)
    (pretraining,) = run("stages=[pretrain]", *coarse)
    encoder = f"init_from={tmp_path}/pretrain/{pretraining['fingerprint']}"
    probes = [
        run("stages=[linear_probe]", *coarse, encoder, f"seed={seed}")[0]
        for seed in (0, 1)
    ]
    run("stages=[linear_probe]", *coarse, encoder, "linear_probe.base_lr=2")
    for name, value in (("data", {"identity": "other"}), ("model", {"width": 17})):
        for seed in (0, 1):
            plant_of_other(name, value, seed, probes[seed], tmp_path)
    config = plan_for("stages=[linear_probe]", *coarse).config
    (values,) = _runs_on_one_encoder("linear_probe", read_ledger(tmp_path), config)
    assert sorted(values) == sorted(
        probe["metrics"]["val/accuracy"] for probe in probes
    )


def test_the_report_prints_the_variance_of_kept_results(tmp_path: Path) -> None:
    done = call(
        "experiment=mask_ratio",
        "scale=embedded",
        "variance=true",
        f"runs_dir={tmp_path}",
        f"out={tmp_path / 'report'}",
        script="report.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "report" / "variance.csv").set_index(
        ["measure", "source"]
    )
    page = (tmp_path / "report" / "known.html").read_text()
    assert "Linear probe at scale embedded: where variance is from" in page
    kept = pd.read_csv(ROOT / "experiments/mask_ratio/results/embedded.csv")
    probes = kept[kept["column"] == "lin"].groupby("row")["value"]
    seeds = "seeds of a row, all that a seed decides"
    assert found.loc[("linear probe", seeds), "sd"] == pytest.approx(
        # rows may have more seeds than others
        np.sqrt(np.average(probes.var(), weights=probes.count() - 1)),
        rel=1e-5,
    )
    assert found.loc[("linear probe", seeds), "df"] == (probes.count() - 1).sum()
    # other seeds on one encoder are in no kept result: the table says how to get them
    assert "Not known: this stage's own seed, same encoder" in " ".join(
        done.stdout.split()
    )
    assert np.isnan(
        found.loc[("fine-tuning", "this stage's own seed, same encoder"), "sd"]
    )


def test_predictions_in_the_ledger_tell_the_part_of_test_images(
    tmp_path: Path,
) -> None:
    """Two rows of a table, two seeds each, from the ledger alone."""
    generator = np.random.default_rng(0)
    place = f"runs_dir={tmp_path}"
    names = []
    for row in ("mask_ratio=0.75", "mask_ratio=0.9"):
        for seed in (0, 1):
            plan = plan_for(
                "scale=embedded", row, f"seed={seed}", place, "controls=[]", tiny=False
            )
            for spec in plan.stages:
                folder = StageFolder(tmp_path, spec)
                folder.create()
                folder.write_config(plan.config.to_dict())
                labels = np.zeros(1000, dtype=int)
                hits = planted(generator, np.linspace(0.5, 1, 1000), seeds=1)[0] > 0
                table = {"image": range(1000), "label": labels, "predicted": 1 - hits}
                path = folder.path / "predictions.csv"
                pd.DataFrame(table).astype(int).to_csv(path, index=False)
                accuracy = 100 * float(hits.mean())
                facts = {"seconds": 1.0, "images": 1000, "versions": {}}
                folder.finish({"val/accuracy": accuracy}, facts)
                names.append(spec.kind)
    assert "finetune" in names
    done = call(
        "experiment=mask_ratio",
        "scale=embedded",
        "variance=true",
        "seeds=[0,1]",
        place,
        f"out={tmp_path / 'report'}",
        script="report.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "report" / "variance.csv")
    level = found[
        (found["measure"] == "fine-tuning")
        & found["source"].str.startswith("other test images: a row's level")
    ]
    # of chances from 0.5 to 1: uniform, so that their sd is 50 / sqrt(12) points
    assert level["sd"].item() == pytest.approx(50 / np.sqrt(12_000), rel=0.25)
    assert level["from"].item() == "2 rows, image by image"
