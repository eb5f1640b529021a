import math

import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table
from vanishing import theory
from vanishing.facts import CRITICAL, critical_scale, criticality
from vanishing.layers import ACTIVATIONS

NAMES = {"sin": "sine"}


def by_theory(row):
    """The largest scale that keeps the gradient and from which the signal does not run away."""
    points = theory.critical(NAMES.get(row.name, row.name))
    return [(row.scale, max(point.sigma_w for point in points if point.stable))]


def test_the_table_is_plain_data():
    assert_table(CRITICAL, lambda row: row.name)
    assert_plain(criticality)


SLOPES = {  # root mean square of the slopes on the two sides of 0
    "relu": 0.5**0.5,
    "tanh": 1.0,
    "erf": 2 / math.pi**0.5,
    "selu": ((1.0507**2 + 1.7581**2) / 2) ** 0.5,
}


@pytest.mark.parametrize("name", SLOPES)
def test_a_small_signal_s_gradient_is_kept_by_the_slopes_at_0(name):
    """1 / f'(0) where the signal dies out slowly (Schoenholz et al. 2017); He's for ReLU."""
    assert critical_scale(name) == pytest.approx(1 / SLOPES[name], rel=1e-3)


def test_an_activation_without_a_stable_scale_has_no_row():
    for name in ("gelu", "silu", "mish", "softplus"):
        assert critical_scale(name) is None


@pytest.mark.slow
def test_every_scale_is_that_of_theory():
    assert_as_stated(CRITICAL, by_theory, rtol=1e-3)
    stable = {
        name
        for name in ACTIVATIONS
        if name not in ("softplus", "swish", "prelu")
        and any(point.stable for point in theory.critical(name))
    }
    known = {NAMES.get(row.name, row.name) for row in CRITICAL}
    assert stable - {"hard_sigmoid"} == known
