"""The critical line against published points."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import theory


# Xiao et al., ICML 2018, and Pennington et al., NeurIPS 2017: (sigma_w^2, sigma_b^2) of tanh is
# (1.05, 2.01e-5); the others follow from 1 = sigma_w^2 E[f'^2] and q = V(q), in float64
@pytest.mark.parametrize(
    ("q", "sigma_w2", "sigma_b2"),
    [
        (0.025921, 1.05, 2.01e-5),
        (0.05, 1.093627, 1.282966e-4),
        (0.1, 1.177569, 8.322804e-4),
        (0.5, 1.687975, 0.0380412),
        (1.0, 2.153303, 0.1509646),
        (2.0, 2.861162, 0.5122649),
    ],
)
def test_tanh_line_by_variance(x64, q, sigma_w2, sigma_b2):
    point = theory.critical_line("tanh", q)
    assert float(point.sigma_w**2) == pytest.approx(sigma_w2, rel=1e-5)
    assert float(point.sigma_b**2) == pytest.approx(sigma_b2, rel=1e-3)


# Schoenholz et al., ICLR 2017, fig. 1, recomputed in float64
@pytest.mark.parametrize(
    ("sigma_b2", "sigma_w2"),
    [(0.01, 1.424205), (0.05, 1.760955), (0.1, 1.986073), (0.2, 2.285152), (1.0, 3.443211)],
)
def test_tanh_line_by_bias(sigma_b2, sigma_w2):
    (point,) = theory.critical("tanh", sigma_b2**0.5)
    assert point.sigma_w**2 == pytest.approx(sigma_w2, rel=1e-6)
    assert point.stable


def test_poole_point_and_the_published_working_point():
    (poole,) = theory.critical("tanh", 0.3)
    assert poole.sigma_w == pytest.approx(1.395584, rel=1e-6)
    (xiao,) = theory.critical("tanh", 2.0105e-5**0.5)
    assert (xiao.sigma_w**2, xiao.q) == pytest.approx((1.05, 0.025921), rel=1e-4)


def test_activations_that_scale_with_their_input_are_critical_without_biases_only():
    for name, sigma_w in (("relu", 2**0.5), ("identity", 1.0), ("leaky_relu", (2 / 1.0001) ** 0.5)):
        (point,) = theory.critical(name)
        assert (point.sigma_w, point.sigma_b) == pytest.approx((sigma_w, 0.0), rel=1e-9)
        assert point.stable
    assert_refuses(lambda: theory.critical("relu", 0.1), "relu has no critical sigma_w")


def test_without_biases_tanh_is_critical_where_its_signal_dies_and_sigmoid_far_out():
    (tanh,) = theory.critical("tanh")
    assert (tanh.sigma_w, tanh.q) == pytest.approx((1.0, 0.0))
    (sigmoid,) = theory.critical("sigmoid")  # often said never to be
    assert sigmoid.sigma_w == pytest.approx(10.149264, rel=1e-6)
    assert sigmoid.q == pytest.approx(45.6, rel=1e-3)


def test_small_biases_and_unstable_variances_are_told():
    (small,) = theory.critical("tanh", 1e-7)
    # sigma_b^2 = (4/3) q^3 + ..., from tanh x = x - x^3 / 3
    assert small.q == pytest.approx((0.75 * 1e-14) ** (1 / 3), rel=0.05)
    (gelu,) = theory.critical("gelu")  # at q = 0, from where every variance grows for ever
    assert (gelu.sigma_w, gelu.stable) == (pytest.approx(2.0), False)


def test_every_solution_is_critical_and_a_fixed_point():
    for name, sigma_b in (("tanh", 0.3), ("sigmoid", 0.5), ("silu", 0.1), ("erf", 0.2)):
        for point in theory.critical(name, sigma_b):
            chi = theory.chi(name, q=point.q, sigma_w=point.sigma_w)
            assert float(chi) == pytest.approx(1, rel=1e-5)
            next_q = theory.variance_map(name, q=point.q, sigma_w=point.sigma_w, sigma_b=sigma_b)
            assert float(next_q) == pytest.approx(point.q, rel=1e-5)


def test_no_bias_is_no_number_and_a_negative_one_is_refused():
    assert np.isnan(theory.critical_line("sigmoid", 10.0).sigma_b)
    # at q = 10 the critical sigma_w is 7.0, which alone makes a variance over 10
    assert float(theory.variance_map("sigmoid", q=10.0, sigma_w=7.0, sigma_b=0.0)) > 10
    assert_refuses(lambda: theory.critical("tanh", -1.0), "sigma_b is -1.0")
    line = theory.critical_line("tanh", jnp.array(0.1))
    assert line.q == pytest.approx(0.1)
