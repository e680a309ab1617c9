"""Verdicts: planted truth is found, planted noise is not taken for it, and what is missing is named."""

import numpy as np
import pytest

from unmask.config.experiments import Claim
from unmask.reports.paper.bootstrap import (
    Sample,
    bootstrap_deviations,
    difference,
    rank_correlation,
)
from unmask.reports.paper.claims import Measured, inequalities, judge

ROWS = ["1", "2", "4", "8"]
HIGHER = Claim(says="8 above 1", column="lin", higher=["8", "1"])


def known(
    values: dict[str, list[float]],
    images: int = 1000,
    accuracy: bool = True,
    left_out: tuple[str, ...] = (),
) -> Measured:
    samples = {row: Sample(tuple(seeds), images) for row, seeds in values.items()}
    return Measured(
        samples,
        [row for row in ROWS if row not in left_out],
        "top-1 %" if accuracy else "s",
        accuracy,
        left_out,
    )


def planted(
    means: dict[str, float], seeds: int, draw: int, spread: float = 0.4
) -> Measured:
    rng = np.random.default_rng(draw)
    return known(
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
    verdicts = [judge(claim, planted(RISING, 3, draw)).verdict for draw in range(25)]
    assert verdicts.count("holds") >= 24
    assert "does not hold" not in verdicts
    assert [
        judge(claim, planted(FALLING, 3, draw)).verdict for draw in range(25)
    ].count("does not hold") >= 24


@pytest.mark.parametrize("claim", [*CLAIMS[:3], HIGHER], ids=lambda claim: claim.says)
def test_of_three_noisy_seeds_nothing_can_be_told_in_nine_draws_of_ten(
    claim: Claim,
) -> None:
    equal = dict.fromkeys(ROWS, 70.0)
    verdicts = [
        judge(claim, planted(equal, 3, draw)).verdict
        for draw in range(300 if claim is HIGHER else 60)
    ]
    assert verdicts.count("cannot tell") >= 0.9 * len(verdicts)


@pytest.mark.parametrize("claim", [*CLAIMS[:3], HIGHER], ids=lambda claim: claim.says)
def test_of_one_seed_and_a_thousand_images_neither(claim: Claim) -> None:
    """Resampling alone would be exactly at the nine: 5 % each way for a claim of one comparison."""
    rng, count = np.random.default_rng(0), 1000 if claim is HIGHER else 60
    drawn = [
        known({row: [float(rng.binomial(1000, 0.9)) / 10] for row in ROWS})
        for _ in range(count)
    ]
    verdicts = [judge(claim, measured).verdict for measured in drawn]
    assert verdicts.count("cannot tell") >= 0.9 * len(verdicts)


def test_at_every_level_no_more_is_told_apart_than_the_level_allows() -> None:
    """Also at the small ones that a correction for 28 comparisons asks for, where three seeds have the fewest tails."""
    rng, count = np.random.default_rng(0), 600
    levels = {0.95: 0.05, 0.99: 0.01, 1 - 0.05 / 28: 0.05 / 28}
    wrong = dict.fromkeys(levels, 0)
    for _ in range(count):
        a, b = (Sample(tuple(rng.normal(size=3)), 0) for _ in range(2))
        found = difference(*((s, bootstrap_deviations(s, False, rng)) for s in (a, b)))  # type: ignore[arg-type]
        for level in levels:
            wrong[level] += found.bound(level, upper=False) > 0
    for level, allowed in levels.items():
        assert wrong[level] <= count * allowed + 2 * (count * allowed) ** 0.5


def test_what_is_close_enough_is_confirmed_and_what_is_not_is_refuted() -> None:
    within = Claim(says="close", column="lin", within=2.0, rows=["1", "8"])
    near = known({"1": [70.0, 70.2, 70.1], "8": [70.3, 70.1, 70.2]})
    far = known({"1": [70.0, 70.2, 70.1], "8": [75.0, 75.2, 75.1]})
    noisy = known({"1": [70.0, 74.4, 72.2], "8": [70.3, 74.3, 72.4]})
    assert judge(within, near).verdict == "holds"
    assert judge(within, far).verdict == "does not hold"
    assert judge(within, noisy).verdict == "cannot tell"
    assert "less than 2 either way is claimed" in judge(within, near).why


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
    assert judge(CLAIMS[1], known(small_steps_down)).verdict == "does not hold"


def test_the_best_need_not_beat_itself_nor_what_the_scale_leaves_out() -> None:
    best = CLAIMS[0]
    assert [pair.low for pair in inequalities(best, ROWS)[0]] == ["1", "2", "4"]
    three = {
        row: [mean, mean + 0.3, mean - 0.3]
        for row, mean in RISING.items()
        if row != "2"
    }
    assert judge(best, known(three, left_out=("2",))).verdict == "holds"
    assert judge(best, known(three)).why == "No result yet of row “2”."


def test_missing_rows_are_named_and_decide_nothing() -> None:
    judged = judge(CLAIMS[1], known({"1": [60.0] * 3, "8": [70.0] * 3}))
    assert (judged.verdict, judged.why) == (
        "cannot tell",
        "No result yet of rows “2”, “4”.",
    )
    judged = judge(CLAIMS[1], known({}, left_out=("4",)))
    assert judged.why == "This scale leaves out row “4”."


def test_the_sentence_has_the_decisive_difference_its_interval_and_what_it_is_over() -> (
    None
):
    judged = judge(HIGHER, known({"1": [60.0, 60.5, 59.5], "8": [70.0]}))
    assert judged.verdict == "holds"
    assert judged.why.startswith("“8” less “1” is +10.00 points (90 % interval +")
    assert judged.why.endswith("over 1,000 images of one seed and 3 seeds).")
    refuted = judge(
        CLAIMS[0], known({"1": [99.0], "2": [50.0], "4": [50.0], "8": [50.0]})
    )
    assert refuted.why.startswith("“8” less “1” is -49.00 points (96.7 % interval -")


def test_one_seed_of_what_is_no_accuracy_tells_nothing() -> None:
    judged = judge(HIGHER, known({"1": [60.0], "8": [70.0]}, accuracy=False))
    assert judged.verdict == "cannot tell"
    assert (
        judged.why
        == "Row “8” has one seed, which does not say how far others would lie; run more"
        " seeds."
    )
    assert (
        judge(
            HIGHER,
            known({"1": [60.0, 61.0, 60.5], "8": [70.0, 71.0, 70.5]}, accuracy=False),
        ).verdict
        == "holds"
    )


def test_seeds_that_agree_to_the_last_digit_are_not_certain() -> None:
    judged = judge(HIGHER, known({"1": [97.2, 97.2, 97.2], "8": [97.4, 97.4, 97.4]}))
    assert judged.verdict == "cannot tell"
    assert (
        judge(HIGHER, known({"1": [99.5], "8": [100.0]}, images=100)).verdict
        == "cannot tell"
    )
    same = judge(HIGHER, known({"1": [5.0, 5.0], "8": [7.0, 7.0]}, accuracy=False))
    assert same.why.startswith("Row “8” has 2 seeds with the same value")


def test_the_same_rows_give_the_same_verdict_to_the_last_digit() -> None:
    measured = planted(RISING, 3, 0)
    assert judge(CLAIMS[1], measured) == judge(CLAIMS[1], measured)
    shuffled = measured._replace(samples=dict(reversed(measured.samples.items())))
    assert judge(CLAIMS[1], shuffled) == judge(CLAIMS[1], measured)


def test_ranks_are_compared_from_three_rows_on() -> None:
    assert rank_correlation([(1.0, 10.0), (2.0, 20.0)]) is None
    assert rank_correlation([(1.0, 10.0), (2.0, 20.0), (3.0, 15.0)]) == pytest.approx(
        0.5
    )
    assert rank_correlation([(1.0, 10.0), (1.0, 20.0), (1.0, 15.0)]) is None
