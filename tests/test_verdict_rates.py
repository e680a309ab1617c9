"""Verdicts on planted tables are wrong as seldom as they promise, and seeds are spent where they decide."""

import numpy as np
import pytest

from unmask.config.paper_facts import Claim
from unmask.reports.paper.claims import judge
from unmask.reports.paper.rounds import is_futile, next_counts
from unmask.reports.paper.sequential import ALPHA, FOUR_LOOKS, SpentLevel
from unmask.reports.paper.simulation import (
    BEST,
    HIGHER,
    NOISES,
    RULES,
    Noises,
    normal,
    plant,
    simulate,
    simulate_rounds,
)

TABLES = 150
# three standard errors of a rate of 5 %
MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / TABLES) ** 0.5
ROW_NAMES = "abcd"


@pytest.mark.parametrize("rule", ["four looks", "e-process"])
@pytest.mark.parametrize("noise", ["normal", "heavy tails", "ties"])
def test_equal_rows_are_told_apart_in_at_most_five_per_cent(
    rule: str, noise: str
) -> None:
    tally = simulate(HIGHER, {"a": 0.0, "b": 0.0}, noise, RULES[rule], TABLES)
    assert tally.share("holds") <= MOST
    assert tally.share("does not hold") <= MOST
    assert tally.wrong / TABLES <= MOST


def test_the_simulation_shows_a_rule_that_is_wrong_too_often() -> None:
    """What these tests guard against: 5 % after every seed is no 5 %."""
    naive = RULES["naive, each seed"]
    tally = simulate(HIGHER, {"a": 0.0, "b": 0.0}, "normal", naive, TABLES)
    assert tally.wrong / TABLES > MOST


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "ties"])
def test_a_large_difference_is_found_with_a_third_of_the_fixed_seeds(
    noise: str,
) -> None:
    tally = simulate(HIGHER, {"a": 3.0, "b": 0.0}, noise, FOUR_LOOKS, TABLES // 2)
    assert tally.share("holds") >= 0.97
    assert tally.mean_seeds < 24 / 3


def test_a_difference_at_the_bound_is_seldom_taken_for_none() -> None:
    """Here a standard deviation counts as none, and the rows are as far apart."""
    tally = simulate(HIGHER, {"a": 1.0, "b": 0.0}, "normal", FOUR_LOOKS, TABLES)
    assert tally.share("no difference") <= MOST


def test_rows_that_are_clearly_worse_stop_and_the_verdicts_stay_the_same() -> None:
    means = dict(zip(ROW_NAMES, (0.0, 0.0, -9.0, -9.0), strict=True))
    tally = simulate_rounds(BEST, means, 60)
    assert tally.wrong / 60 <= MOST + 0.05
    assert tally.mean_seeds < 0.6 * 4 * 24


def test_a_round_goes_on_with_rows_of_open_claims_up_to_the_next_look() -> None:
    noise = Noises(normal)
    column = plant({"a": 0.3, "b": 0.0, "c": -30.0}, noise, _generator(), alike=False)
    three = column._replace(
        samples={row: sample.first(3) for row, sample in column.samples.items()}
    )
    claim = Claim(says="best", column="lin", best="a")
    judged = judge(claim, three)
    counts = dict.fromkeys("abc", 3)
    assert judged.verdict == "cannot tell yet"
    wanted = next_counts(counts, [judged], FOUR_LOOKS, 24)
    assert wanted == {"a": 6, "b": 6, "c": 3}
    assert next_counts(counts, [judged], FOUR_LOOKS, 3) == counts
    assert next_counts(counts, [], FOUR_LOOKS, 24) == counts


def test_a_claim_that_hardly_can_be_told_is_left_after_the_second_look() -> None:
    column = plant({"a": 0.0, "b": 0.0}, NOISES["normal"], _generator(), alike=False)
    even = {
        row: sample._replace(values=(80.0, 81.0, 79.0) * 8)
        for row, sample in column.samples.items()
    }
    rule = SpentLevel()

    def at(seeds: int) -> bool:
        rows = {row: sample.first(seeds) for row, sample in even.items()}
        return is_futile(judge(HIGHER, column._replace(samples=rows)), rule)

    assert [at(3), at(6), at(12)] == [False, True, True]


def _generator() -> np.random.Generator:
    return np.random.default_rng(3)
