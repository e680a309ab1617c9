"""The mean corruption error is relative to AlexNet's, corruption by corruption."""

import pytest

from unmask.training.corruption_error import ALEXNET_ERRORS, mean_corruption_error


def test_alexnet_is_one_and_half_its_errors_are_a_half() -> None:
    assert mean_corruption_error(ALEXNET_ERRORS) == pytest.approx(1)
    assert mean_corruption_error(
        {name: error / 2 for name, error in ALEXNET_ERRORS.items()}
    ) == pytest.approx(0.5)


def test_each_corruption_weighs_by_its_own_ratio() -> None:
    """An error added on brightness, where AlexNet is good, costs more than one on impulse noise."""
    costs = {
        name: (
            mean_corruption_error({**ALEXNET_ERRORS, name: ALEXNET_ERRORS[name] + 0.05})
            - 1
        )
        for name in ("brightness", "impulse_noise")
    }
    assert costs["brightness"] == pytest.approx(0.05 / 0.564592 / 15)
    assert costs["impulse_noise"] == pytest.approx(0.05 / 0.922640 / 15)


def test_mce_names_what_is_missing_unknown_or_in_percent() -> None:
    without = {name: 0.5 for name in ALEXNET_ERRORS if name != "fog"}
    with pytest.raises(ValueError, match="missing: fog; unknown: haze"):
        mean_corruption_error({**without, "haze": 0.5})
    with pytest.raises(
        ValueError,
        match=r"the error on fog is 76.7; give shares from 0 to 1, not percent",
    ):
        mean_corruption_error({**without, "fog": 76.7})
