"""A planted difference is found, planted noise is not taken for one, and missing rows are named."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from planted_results import DEPTH
from unmask.config.paper_facts import Claim
from unmask.reports.paper.claims import ColumnSamples, Judging, judge
from unmask.reports.paper.comparison import judge_claims
from unmask.reports.paper.inequalities import inequalities
from unmask.reports.paper.result_rows import ResultRow
from unmask.reports.paper.samples import Sample, rank_correlation
from unmask.reports.paper.sequential import (
    ALPHA,
    Anytime,
    SpentLevel,
    critical_e_value,
    log_e_value,
)

ROWS = ["1", "2", "4", "8"]
HIGHER = Claim(says="8 above 1", column="lin", higher=["8", "1"])


def column_of(
    values: dict[str, list[float]],
    images: int = 1000,
    is_accuracy: bool = True,
    omitted_rows: tuple[str, ...] = (),
    alike: float | None = None,
    seconds: dict[str, float] | None = None,
) -> ColumnSamples:
    samples = {row: Sample(tuple(seeds), images) for row, seeds in values.items()}
    return ColumnSamples(
        samples,
        [row for row in ROWS if row not in omitted_rows],
        "top-1 %" if is_accuracy else "s",
        is_accuracy,
        omitted_rows,
        alike,
        {"1": 65.5, "8": 73.5},
        seconds or {},
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
        judge(claim, planted_column(RISING, 6, draw)).verdict for draw in range(25)
    ]
    assert verdicts.count("holds") >= 24
    assert "does not hold" not in verdicts
    assert [
        judge(claim, planted_column(FALLING, 6, draw)).verdict for draw in range(25)
    ].count("does not hold") >= 24


def test_close_rows_confirm_a_claim_of_closeness_and_distant_ones_refute_it() -> None:
    within = Claim(says="close", column="lin", within=2.0, rows=["1", "8"])
    near = column_of({"1": [70.0, 70.2, 70.1], "8": [70.3, 70.1, 70.2]})
    far = column_of({"1": [70.0, 70.2, 70.1], "8": [75.0, 75.2, 75.1]})
    noisy = column_of({"1": [70.0, 74.4, 72.2], "8": [70.3, 74.3, 72.4]})
    assert judge(within, near).verdict == "holds"
    assert judge(within, far).verdict == "does not hold"
    assert judge(within, noisy).verdict == "cannot tell yet"
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
        "8": [65.8, 66.2, 65.4],
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


def test_the_reason_gives_the_decisive_difference_its_interval_and_seeds() -> None:
    judged = judge(
        HIGHER, column_of({"1": [60.0, 60.5, 59.5], "8": [70.0, 71.0, 69.0]})
    )
    assert (judged.verdict, judged.seeds) == ("holds", 3)
    # Welch by hand: error sqrt((0.25 + 1) / 3), df 2.94, one-sided 0.5 %
    reach = stats.t.ppf(0.995, (1.25**2) * 2 / (0.25**2 + 1)) * (1.25 / 3) ** 0.5
    assert judged.reason == (
        f"“8” minus “1” is +10.00 points (99 % interval {10 - reach:+.2f} to"
        f" {10 + reach:+.2f}, over 3 seeds of each)."
    )
    best = judge(
        CLAIMS[0],
        column_of(
            {row: [mean, mean + 0.3, mean - 0.3] for row, mean in FALLING.items()}
        ),
    )
    assert best.verdict == "does not hold"
    # the level of a refutation is shared among the three rivals
    assert "“8” minus “1” is -12.00 points (99.7 % interval -" in best.reason


def test_looks_are_at_the_scales_numbers_of_seeds_and_nowhere_between() -> None:
    """A row that has more seeds than the last look is judged as it was there."""
    early, late = [70.0, 71.0, 69.0], [90.0] * 2
    two = judge(HIGHER, column_of({"1": [60.0, 61.0], "8": [70.0, 71.0]}))
    assert two.verdict == "cannot tell yet"
    assert (
        "2 seeds; the first look is after 3 seeds a row. That is 2 more" in two.reason
    )
    five = judge(HIGHER, column_of({"1": [*early, 0.0, 0.0], "8": [*early, *late]}))
    assert "is +0.00 points" in five.reason
    assert "over 3 seeds of each" in five.reason
    uneven = judge(HIGHER, column_of({"1": early, "8": [*early, *late, 90.0]}))
    assert "over 3 seeds of each" in uneven.reason, "never more of one row"


def test_what_is_decided_at_a_look_stays_decided() -> None:
    low, high = [60.0, 60.5, 59.5], [70.0, 71.0, 69.0]
    turned = column_of({"1": low + high, "8": high + low})
    judged = judge(HIGHER, turned)
    assert (judged.verdict, judged.seeds) == ("holds", 3)
    assert judge(HIGHER, turned, SpentLevel((6, 12))).verdict == "cannot tell yet"


def test_the_looks_spend_five_per_cent_and_later_ones_more() -> None:
    levels = [SpentLevel().level(look) for look in (3, 6, 12, 24)]
    assert levels == pytest.approx([0.005, 0.010, 0.015, 0.020])
    assert sum(SpentLevel((3, 6, 12)).level(look) for look in (3, 6, 12)) == ALPHA


def test_rows_that_are_close_have_no_difference_of_more_than_a_bound() -> None:
    rng = np.random.default_rng(0)
    rows = {row: (70 + 0.4 * rng.normal(size=24)).tolist() for row in ("1", "8")}
    judged = judge(HIGHER, column_of(rows, alike=0.6))
    assert judged.verdict == "no difference"
    assert judged.bound is not None
    assert 0.1 < judged.bound <= 0.6
    assert (
        judged.title == f"no difference of more than {judged.bound + 0.005:.2f} points"
    )
    assert "the paper's own two rows are 8.0 apart" in judged.reason
    assert judge(HIGHER, column_of(rows)).verdict == "cannot tell yet"
    # one that is confirmed need not be close
    best = Claim(says="best", column="lin", best="8")
    far = rows | {row: [value - 9 for value in rows["1"]] for row in ("2", "4")}
    assert judge(best, column_of(far, alike=0.6)).verdict == "no difference"


def test_rows_within_a_margin_have_until_the_last_look_to_show_it() -> None:
    """What is close by the scale's measure may still be closer, as the claim says."""
    rng = np.random.default_rng(1)
    a, b = (95 + 0.3 * rng.normal(size=(2, 24))).tolist()
    within = Claim(says="close", column="lin", within=0.3, rows=["1", "8"])

    def verdict(margin: float, seeds: int) -> str:
        claim = within.model_copy(update={"within": margin})
        rows = {"1": a[:seeds], "8": b[:seeds]}
        return judge(claim, column_of(rows, alike=0.6)).verdict

    assert verdict(0.3, 12) == "cannot tell yet"
    assert verdict(0.3, 24) == "holds"
    assert verdict(0.05, 24) == "no difference"
    anytime = judge(within, column_of({"1": a, "8": b}, alike=0.6), Anytime())
    assert anytime.verdict in ("holds", "cannot tell yet")


def test_numbers_in_reasons_are_ones_to_act_on() -> None:
    close = column_of({"1": [93.5, 94.4, 95.3], "8": [93.5, 95.3, 94.4]})
    reason = judge(HIGHER, close).reason
    assert "is +0.00 points" in reason
    assert "no practical number of seeds would" in reason
    rows = {
        row: [80.0 - 5 * i, 80.2 - 5 * i, 80.1] for i, row in enumerate("abcdefghi")
    }
    rising = Claim(says="up", column="lin", rising=[*rows])
    column = column_of(rows)._replace(competing_rows=[*rows])
    assert "(100 %" not in judge(rising, column).reason


def test_what_would_tell_is_a_look_and_its_runs_and_hours() -> None:
    """The number of seeds is that of the usual formula at the last look's level."""
    a, b = [70.0, 71.0, 69.0], [71.2, 72.2, 70.2]
    column = column_of({"1": a, "8": b}, seconds={"1": 3600.0, "8": 1800.0})
    judged = judge(HIGHER, column)
    assert judged.outlook is not None
    needed = ((stats.norm.ppf(0.98) + stats.norm.ppf(0.8)) / 1.2) ** 2 * 2
    assert judged.outlook.needed == math.ceil(needed) == 12
    assert "12 seeds a row would show that it holds. That is 18" in judged.reason
    assert "18 more runs, 13.5 hours of computing" in judged.reason
    small = judge(HIGHER, column_of({"1": a, "8": [70.01, 71.01, 69.01]}))
    assert "looks, up to 24 seeds a row, is likely to tell" in small.reason
    last = judge(HIGHER, column_of({"1": a * 8, "8": [70.1, 71.1, 69.1] * 8}))
    assert "The last look has been" in last.reason


def test_a_row_that_scatters_far_more_than_the_other_is_said_to() -> None:
    judged = judge(
        HIGHER, column_of({"1": [60.0, 60.1, 60.2], "8": [80.0, 81.0, 79.0]})
    )
    assert "“8” scatter 10 times as far as those of “1”" in judged.reason


def test_one_seed_decides_nothing() -> None:
    judged = judge(HIGHER, column_of({"1": [60.0], "8": [70.0]}))
    assert judged.verdict == "cannot tell yet"
    assert re.search("one seed; the first look is after 3", judged.reason)


def test_a_row_that_lacks_the_first_seed_is_said_to() -> None:
    """Its other seeds do not stand in for it, and it is not one without a result."""
    seeds = {"1": (1, 2, 3), "8": (0, 1, 2, 3)}
    results = [
        ResultRow(row, "lin", seed, 60.0 + seed, 1000, f"{row}-{seed}", "")
        for row, all_seeds in seeds.items()
        for seed in all_seeds
    ]
    judged = judge_claims(DEPTH, results, Judging())[0]
    assert judged.verdict == "cannot tell yet"
    assert "“1” has no result with the first seed of the others" in judged.reason
    none = judge_claims(DEPTH, [r for r in results if r.row == "8"], Judging())[0]
    assert (none.verdict, none.reason) == ("not run", "No result yet of row “1”.")


def test_seeds_that_agree_to_the_last_digit_are_known_to_one_image() -> None:
    """Without images, as for seconds, they say nothing of how far others would lie."""
    near = judge(HIGHER, column_of({"1": [97.2] * 3, "8": [97.3] * 3}))
    assert near.verdict == "cannot tell yet"
    far = judge(HIGHER, column_of({"1": [97.2] * 3, "8": [98.2] * 3}))
    assert far.verdict == "holds"
    same = judge(HIGHER, column_of({"1": [5.0] * 3, "8": [7.0] * 3}, is_accuracy=False))
    assert same.verdict == "cannot tell yet"
    assert "3 seeds of row “8” have the same value" in same.reason


@pytest.mark.parametrize(("seeds", "t"), [(3, 2.0), (5, -1.0), (10, 3.0), (24, 2.5)])
def test_the_e_value_is_the_mixture_of_likelihood_ratios_of_t(
    seeds: int, t: float
) -> None:
    def ratio(effect: float) -> float:
        shifted = stats.nct.pdf(t, seeds - 1, effect * seeds**0.5)
        weight = 2 * stats.norm.pdf(effect)
        return float(weight * shifted / stats.t.pdf(t, seeds - 1))

    mixture, _ = integrate.quad(ratio, 0, 8)
    assert math.exp(log_e_value(t, seeds)) == pytest.approx(mixture, rel=1e-6)
    critical = critical_e_value(24, 20.0)
    assert math.exp(log_e_value(critical, 24)) == pytest.approx(20.0)
    assert math.isinf(critical_e_value(2, 20.0))


def test_without_looks_every_seed_may_decide_and_takes_more_evidence() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=24) + shift for shift in (70.0, 73.0))
    column = column_of({"1": a.tolist(), "8": b.tolist()})
    judged = judge(HIGHER, column, Anytime())
    assert judged.verdict == "holds"
    assert judged.seeds not in (None, 3, 6, 12, 24)
    assert "(90 % interval" in judged.reason
    wide = judge(HIGHER, column_of({"1": [70.0, 72.0], "8": [71.0, 70.0]}), Anytime())
    assert "interval unbounded" in wide.reason


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
