"""Fixed points and depth scales against published numbers and against plain iteration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import slow
from vanishing import theory
from vanishing.layers import ACTIVATIONS


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def iterated(name, sigma_w, sigma_b, steps=2000):
    """What the variance comes to from 1, step by step."""

    def step(q, _):
        return theory.variance_map(name, q=q, sigma_w=sigma_w, sigma_b=sigma_b), None

    return jax.lax.scan(step, jnp.ones(()), length=steps)[0]


# Poole et al., NeurIPS 2016, fig. 1: tanh, sigma_b = 0.3; chi_1 recomputed in float64
@pytest.mark.parametrize(
    ("sigma_w", "q", "chi_1"),
    [(1.3, 0.607047, 0.939807), (2.5, 4.079124, 1.585225), (4.0, 12.604149, 2.367261)],
)
def test_tanh_has_the_fixed_points_of_poole(sigma_w, q, chi_1):
    assert float(theory.fixed_point("tanh", sigma_w=sigma_w, sigma_b=0.3)) == pytest.approx(
        q, rel=1e-5
    )
    (point,) = theory.fixed_points("tanh", sigma_w=sigma_w, sigma_b=0.3)
    assert (point.q, point.chi_1) == pytest.approx((q, chi_1), rel=1e-6)
    assert point.stable


# Schoenholz et al., ICLR 2017: log chi_1 of tanh at sigma_b^2 = 0.05, by sigma_w^2
@pytest.mark.parametrize(
    ("sigma_w2", "log_chi"),
    [(1.0, -0.2757), (1.3, -0.1276), (1.76, -0.0002), (2.5, 0.1253), (4.0, 0.2945)],
)
def test_tanh_has_the_slopes_of_schoenholz(sigma_w2, log_chi):
    sigma_w, sigma_b = sigma_w2**0.5, 0.05**0.5
    q = theory.fixed_point("tanh", sigma_w=sigma_w, sigma_b=sigma_b)
    assert float(jnp.log(theory.chi("tanh", q=q, sigma_w=sigma_w))) == pytest.approx(
        log_chi, abs=6e-5
    )


def test_selu_keeps_unit_variance_but_not_the_gradient():
    """Klambauer et al., NeurIPS 2017: mean 0 and variance 1; the slope of the map is 0.782648."""
    moments = ACTIVATIONS["selu"].moments(1.0, 0.0)
    assert float(moments.mean) == pytest.approx(0, abs=1e-6)
    points = theory.fixed_points("selu", sigma_w=1.0, sigma_b=0.0)
    assert points[-1].q == pytest.approx(1, rel=1e-9)
    assert points[-1].slope == pytest.approx(0.782648, rel=1e-6)
    # lambda^2 (1/2 + alpha^2 e^2 Phi(-2)), from its definition
    alpha, scale, phi = 1.6732632423543772, 1.0507009873554805, 0.022750131948179195
    assert points[-1].chi_1 == pytest.approx(scale**2 * (0.5 + alpha**2 * np.e**2 * phi), rel=1e-9)


def test_relu_keeps_every_variance_grows_for_ever_or_dies():
    assert float(theory.fixed_point("relu", sigma_w=2**0.5, sigma_b=0.0)) == 1.0
    assert float(theory.fixed_point("relu", sigma_w=2.0, sigma_b=0.3)) == np.inf
    # sigma_b^2 / (1 - sigma_w^2 / 2)
    assert float(theory.fixed_point("relu", sigma_w=1.0, sigma_b=0.3)) == pytest.approx(
        0.18, rel=1e-5
    )
    assert theory.fixed_points("relu", sigma_w=2.0, sigma_b=0.3) == ()
    assert [p.q for p in theory.fixed_points("relu", sigma_w=2**0.5, sigma_b=0.0)] == [1.0]


def test_a_dead_and_a_living_fixed_point_are_both_found():
    dead, alive = theory.fixed_points("tanh", sigma_w=1.3, sigma_b=0.0)
    assert (dead.q, dead.stable, alive.stable) == (0.0, False, True)
    assert dead.slope == pytest.approx(1.69, rel=1e-6)  # sigma_w^2 f'(0)^2
    assert alive.q == pytest.approx(float(iterated("tanh", 1.3, 0.0)), rel=1e-4)
    assert float(theory.fixed_point("tanh", sigma_w=0.9, sigma_b=0.0)) == 0.0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from(["tanh", "sigmoid", "erf", "softsign"]),
    st.floats(0.3, 4.0),
    st.floats(0.05, 2.0),
)
def test_what_is_found_is_a_fixed_point_that_iteration_comes_to(name, sigma_w, sigma_b):
    q = jax.jit(lambda w, b: theory.fixed_point(name, sigma_w=w, sigma_b=b))(sigma_w, sigma_b)
    next_q = theory.variance_map(name, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    assert float(next_q) == pytest.approx(float(q), rel=1e-5)
    assert float(iterated(name, sigma_w, sigma_b, 200)) == pytest.approx(float(q), rel=1e-3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(["tanh", "relu", "erf"]), st.floats(0.1, 10.0))
def test_the_correlation_map_is_monotone_and_convex_between_0_and_1(name, q):
    """Its Taylor coefficients in c, of the Hermite expansion, are squares (Poole 2016)."""
    with jax.enable_x64(True):
        c = jnp.linspace(0, 1, 41)
        values = jax.vmap(
            lambda c: theory.covariance_map(name, q=q, correlation=c, sigma_w=1.0, sigma_b=0.0)
        )(c)
        steps = np.diff(values)
        assert np.all(steps > 0)
        assert np.all(np.diff(steps) > -1e-12)


def test_the_slope_of_the_correlation_map_is_chi(x64):
    for name in ("tanh", "relu", "gelu"):
        for c in (0.3, 0.9):
            scales = {"sigma_w": 1.3, "sigma_b": 0.4}
            covariance = functools.partial(theory.covariance_map, name, q=2.0, **scales)
            slope = jax.jit(jax.grad(lambda c, f=covariance: f(correlation=c)))(c)
            chi = theory.chi(name, q=2.0, sigma_w=1.3, correlation=c)
            expected = 2.0 * chi  # of the covariance, q c
            assert float(slope) == pytest.approx(float(expected), rel=1e-6)


def test_the_chaotic_phase_has_a_correlation_that_iteration_comes_to(x64):
    q = theory.fixed_point("tanh", sigma_w=2.5, sigma_b=0.3)

    def step(c, _):
        return theory.covariance_map("tanh", q=q, correlation=c, sigma_w=2.5, sigma_b=0.3) / q, None

    c, _ = jax.lax.scan(step, jnp.array(0.9), length=200)
    assert float(theory.correlation_fixed_point("tanh", q=q, sigma_w=2.5)) == pytest.approx(
        float(c), rel=1e-6
    )
    assert float(theory.correlation_fixed_point("tanh", q=0.5, sigma_w=1.0)) == 1.0


# Schoenholz et al., ICLR 2017: xi_c of tanh at sigma_b^2 = 0.05, by sigma_w^2, recomputed
@pytest.mark.parametrize(
    ("sigma_w2", "scale"),
    [(1.2, 5.9), (1.5, 15.8), (2.1, 19.4), (2.6, 11.0), (3.2, 8.4)],
)
def test_tanh_has_the_depth_scales_of_schoenholz(sigma_w2, scale):
    scales = theory.depth_scales("tanh", sigma_w=sigma_w2**0.5, sigma_b=0.05**0.5)
    assert float(scales.correlation) == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize("sigma_w", [*slow(1.0), 2.0])
def test_depth_scales_are_a_gradient_away_on_both_sides_of_the_line(x64, sigma_w):
    scales = jax.jit(
        lambda sigma_w: jnp.stack(theory.depth_scales("tanh", sigma_w=sigma_w, sigma_b=0.3))
    )
    step = 1e-5
    expected = (scales(sigma_w + step) - scales(sigma_w - step)) / (2 * step)
    jacobian = jax.jit(jax.jacobian(scales))(sigma_w)
    np.testing.assert_allclose(jacobian, expected, rtol=1e-5)


def test_a_fixed_point_of_1_has_its_gradient_and_a_dying_signal_its_scale(x64):
    step = 1e-6
    q = jax.jit(lambda sigma_w: theory.fixed_point("selu", sigma_w=sigma_w, sigma_b=0.0))
    expected = (q(1.0 + step) - q(1.0 - step)) / (2 * step)
    assert float(jax.grad(q)(1.0)) == pytest.approx(float(expected), rel=1e-4)
    # tanh is x near 0: V' = sigma_w^2
    scale = theory.depth_scales("tanh", sigma_w=0.9, sigma_b=0.0).q
    assert float(scale) == pytest.approx(-1 / np.log(0.81), rel=1e-4)


def test_one_is_a_correlation_that_is_always_kept():
    point, unit = theory.correlation_fixed_points("tanh", q=4.079124, sigma_w=2.5)
    assert (point.stable, unit.correlation, unit.stable) == (True, 1.0, False)
    (only,) = theory.correlation_fixed_points("relu", q=1.0, sigma_w=2**0.5)
    assert (only.correlation, only.slope) == pytest.approx((1.0, 1.0))


def test_xavier_relu_has_a_chi_of_one_half():
    # chi_1 = 1 / 2 of Xavier's ReLU, at every variance
    assert float(theory.chi("relu", q=3.0, sigma_w=1.0)) == 0.5


# Hayou et al., ICML 2019, proposition 1: l^2 (1 - c_l) on ReLU's edge of chaos tends to 9 pi^2 / 2
@pytest.mark.parametrize(("depth", "value"), [(10, 12.85), (100, 35.77), (1000, 43.13)])
def test_relu_correlations_come_to_1_as_hayou_says(depth, value):
    def step(difference, _):
        return 2 * ACTIVATIONS["relu"].moments(1.0, difference).difference, None

    difference, _ = jax.lax.scan(step, jnp.ones(()), length=depth)
    assert depth**2 * float(difference) == pytest.approx(value, rel=1e-3)
