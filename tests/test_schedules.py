"""Rates follow the linear scaling rule, rise from zero and fall along half a cosine."""

import pytest

from unmask.optim import scaled_lr, warmup_cosine


@pytest.mark.parametrize(
    ("base", "batch", "rate"),
    [
        (1.5e-4, 4096, 2.4e-3),
        (1e-3, 1024, 4e-3),
        (0.1, 16384, 6.4),
        (1e-4, 4096, 1.6e-3),
    ],
)
def test_base_rates_scale_to_those_of_the_papers_batches(
    base: float, batch: int, rate: float
) -> None:
    assert scaled_lr(base, batch) == pytest.approx(rate)


def test_warm_up_is_linear_from_zero_to_the_peak() -> None:
    assert [warmup_cosine(step, 4, 100) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_after_warm_up_half_a_cosine_falls_to_the_floor_and_stays(floor: float) -> None:
    factors = [warmup_cosine(step, 10, 110, floor) for step in range(10, 111)]
    assert factors == sorted(factors, reverse=True)
    assert factors[50] == pytest.approx((1 + floor) / 2)
    assert factors[25] == pytest.approx(floor + (1 - floor) * 0.5 * (1 + 0.5**0.5))
    assert factors[-1] == pytest.approx(floor)
    assert warmup_cosine(500, 10, 110, floor) == pytest.approx(floor)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert warmup_cosine(0, 0, 100) == 1
