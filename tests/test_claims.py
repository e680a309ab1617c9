"""A planted difference is found, planted noise is not taken for one, and missing rows are named."""

import re

import numpy as np
import pandas as pd
import pytest

from unmask.config.paper_facts import Claim
from unmask.reports.paper.bootstrap import Sample, rank_correlation, resample
from unmask.reports.paper.claims import ColumnSamples, inequalities, judge

ROWS = ["1", "2", "4", "8"]
HIGHER = Claim(says="8 above 1", column="lin", higher=["8", "1"])


def column_of(
    values: dict[str, list[float]],
    images: int = 1000,
    is_accuracy: bool = True,
    omitted_rows: tuple[str, ...] = (),
) -> ColumnSamples:
    samples = {row: Sample(tuple(seeds), images) for row, seeds in values.items()}
    return ColumnSamples(
        samples,
        [row for row in ROWS if row not in omitted_rows],
        "top-1 %" if is_accuracy else "s",
        is_accuracy,
        omitted_rows,
    )


def planted_column(
    means: dict[str, float], seeds: int, draw: int, spread: float = 0.4
) -> ColumnSamples:
    rng = np.random.default_rng(draw)
    return column_of(
        {
            row: (mean + spread * rng.normal(size=seeds)).tolist()
            for row, mean in means.items()
        }
    )


CLAIMS = [
    Claim(says="best", column="lin", best="8"),
    Claim(says="rising", column="lin", rising=ROWS),
    Claim(says="falling", column="lin", falling=ROWS[::-1]),
    Claim(says="higher", column="lin", higher=["8", "1"], by=2.0),
]
RISING = {"1": 60.0, "2": 64.0, "4": 68.0, "8": 72.0}
FALLING = dict(zip(ROWS, reversed(RISING.values()), strict=True))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.says)
def test_a_planted_truth_holds_and_its_opposite_does_not(claim: Claim) -> None:
    verdicts = [
        judge(claim, planted_column(RISING, 3, draw)).verdict for draw in range(25)
    ]
    assert verdicts.count("holds") >= 24
    assert "does not hold" not in verdicts
    assert [
        judge(claim, planted_column(FALLING, 3, draw)).verdict for draw in range(25)
    ].count("does not hold") >= 24


@pytest.mark.parametrize("claim", [*CLAIMS[:3], HIGHER], ids=lambda claim: claim.says)
def test_three_seeds_of_equal_rows_decide_nothing_in_nine_draws_of_ten(
    claim: Claim,
) -> None:
    equal = dict.fromkeys(ROWS, 70.0)
    verdicts = [
        judge(claim, planted_column(equal, 3, draw)).verdict
        for draw in range(300 if claim is HIGHER else 60)
    ]
    assert verdicts.count("cannot tell") >= 0.9 * len(verdicts)


@pytest.mark.parametrize("claim", [*CLAIMS[:3], HIGHER], ids=lambda claim: claim.says)
def test_one_seed_of_equal_rows_decides_nothing_in_nine_draws_of_ten(
    claim: Claim,
) -> None:
    """Plain resampling would lie exactly at nine in ten: 5 % on each side for one comparison."""
    rng, count = np.random.default_rng(0), 1000 if claim is HIGHER else 60
    columns = [
        column_of({row: [float(rng.binomial(1000, 0.9)) / 10] for row in ROWS})
        for _ in range(count)
    ]
    verdicts = [judge(claim, column).verdict for column in columns]
    assert verdicts.count("cannot tell") >= 0.9 * len(verdicts)


def test_equal_rows_are_told_apart_no_more_often_than_each_level_allows() -> None:
    """Also at the level of 28 comparisons, far out in the tails, of which three seeds show least."""
    rng, count = np.random.default_rng(0), 600
    levels = {0.95: 0.05, 0.99: 0.01, 1 - 0.05 / 28: 0.05 / 28}
    wrong = dict.fromkeys(levels, 0)
    for _ in range(count):
        a, b = (Sample(tuple(rng.normal(size=3)), 0) for _ in range(2))
        first, second = (resample(sample, False, rng) for sample in (a, b))
        assert first is not None
        assert second is not None
        difference = first.minus(second)
        for level in levels:
            wrong[level] += difference.bound(level, upper=False) > 0
    for level, allowed in levels.items():
        assert wrong[level] <= count * allowed + 2 * (count * allowed) ** 0.5


def test_close_rows_confirm_a_claim_of_closeness_and_distant_ones_refute_it() -> None:
    within = Claim(says="close", column="lin", within=2.0, rows=["1", "8"])
    near = column_of({"1": [70.0, 70.2, 70.1], "8": [70.3, 70.1, 70.2]})
    far = column_of({"1": [70.0, 70.2, 70.1], "8": [75.0, 75.2, 75.1]})
    noisy = column_of({"1": [70.0, 74.4, 72.2], "8": [70.3, 74.3, 72.4]})
    assert judge(within, near).verdict == "holds"
    assert judge(within, far).verdict == "does not hold"
    assert judge(within, noisy).verdict == "cannot tell"
    assert "less than 2 " in judge(within, near).reason


def test_a_trend_is_confirmed_on_neighbours_and_refuted_on_any_pair() -> None:
    confirm, refute = inequalities(CLAIMS[1], ROWS)
    assert [(pair.high, pair.low) for pair in confirm] == [
        ("2", "1"),
        ("4", "2"),
        ("8", "4"),
    ]
    assert len(refute) == 6
    assert inequalities(CLAIMS[2], ROWS) == (confirm, refute) or {
        *inequalities(CLAIMS[2], ROWS)[1]
    } == {*refute}
    small_steps_down = {
        "1": [70.0, 70.4, 69.6],
        "2": [69.6, 70.0, 69.2],
        "4": [69.2, 69.6, 68.8],
        "8": [66.8, 67.2, 66.4],
    }
    assert judge(CLAIMS[1], column_of(small_steps_down)).verdict == "does not hold"


def test_the_best_row_need_not_beat_itself_or_a_row_that_the_scale_omits() -> None:
    best = CLAIMS[0]
    assert [pair.low for pair in inequalities(best, ROWS)[0]] == ["1", "2", "4"]
    three = {
        row: [mean, mean + 0.3, mean - 0.3]
        for row, mean in RISING.items()
        if row != "2"
    }
    assert judge(best, column_of(three, omitted_rows=("2",))).verdict == "holds"
    assert "No result" in judge(best, column_of(three)).reason
    assert "row “2”" in judge(best, column_of(three)).reason


def test_missing_rows_are_named_and_decide_nothing() -> None:
    judged = judge(CLAIMS[1], column_of({"1": [60.0] * 3, "8": [70.0] * 3}))
    assert judged.verdict == "not run"
    assert "rows “2”, “4”" in judged.reason
    judged = judge(CLAIMS[1], column_of({}, omitted_rows=("4",)))
    assert "scale" in judged.reason
    assert "row “4”" in judged.reason


def test_the_reason_gives_the_decisive_difference_its_interval_and_sample() -> None:
    judged = judge(HIGHER, column_of({"1": [60.0, 60.5, 59.5], "8": [70.0]}))
    assert judged.verdict == "holds"
    assert re.match(r"“8” \w+ “1” is \+10\.00 points \(90 % interval \+", judged.reason)
    assert judged.reason.endswith("over 1,000 images of one seed and 3 seeds).")
    refuted = judge(
        CLAIMS[0], column_of({"1": [99.0], "2": [50.0], "4": [50.0], "8": [50.0]})
    )
    assert re.match(
        r"“8” \w+ “1” is -49\.00 points \(96\.7 % interval -", refuted.reason
    )


def test_one_seed_decides_nothing_unless_it_is_an_accuracy() -> None:
    judged = judge(HIGHER, column_of({"1": [60.0], "8": [70.0]}, is_accuracy=False))
    assert judged.verdict == "cannot tell"
    assert re.search("“8” has one seed.*run more seeds", judged.reason)
    assert (
        judge(
            HIGHER,
            column_of(
                {"1": [60.0, 61.0, 60.5], "8": [70.0, 71.0, 70.5]}, is_accuracy=False
            ),
        ).verdict
        == "holds"
    )


def test_seeds_that_agree_to_the_last_digit_are_not_certain() -> None:
    judged = judge(
        HIGHER, column_of({"1": [97.2, 97.2, 97.2], "8": [97.4, 97.4, 97.4]})
    )
    assert judged.verdict == "cannot tell"
    assert (
        judge(HIGHER, column_of({"1": [99.5], "8": [100.0]}, images=100)).verdict
        == "cannot tell"
    )
    same = judge(
        HIGHER, column_of({"1": [5.0, 5.0], "8": [7.0, 7.0]}, is_accuracy=False)
    )
    assert "“8” has 2 seeds with the same value" in same.reason


def test_the_same_rows_give_the_same_verdict_to_the_last_digit() -> None:
    column = planted_column(RISING, 3, 0)
    assert judge(CLAIMS[1], column) == judge(CLAIMS[1], column)
    shuffled = column._replace(samples=dict(reversed(column.samples.items())))
    assert judge(CLAIMS[1], shuffled) == judge(CLAIMS[1], column)


def test_ranks_are_compared_from_three_rows_on() -> None:
    def correlation(papers: list[float], ours: list[float]) -> float | None:
        return rank_correlation(pd.DataFrame({"paper": papers, "mean": ours}))

    assert correlation([1.0, 2.0], [10.0, 20.0]) is None
    assert correlation([1.0, 2.0, 3.0], [10.0, 20.0, 15.0]) == pytest.approx(0.5)
    assert correlation([1.0, 1.0, 1.0], [10.0, 20.0, 15.0]) is None
    assert correlation([10.0, 20.0, 15.0], [1.0, 1.0, 1.0]) is None
