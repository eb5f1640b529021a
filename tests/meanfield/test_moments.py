"""Closed forms against quadrature, and quadrature against sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from vanishing.meanfield import moments
from vanishing.meanfield.moments import Leaky, by_quadrature

CLOSED = {
    "relu": (Leaky(0.0), jax.nn.relu),
    "leaky": (Leaky(0.3), lambda x: jax.nn.leaky_relu(x, 0.3)),
    "identity": (Leaky(1.0), lambda x: x),
    "erf": (moments.erf, jax.scipy.special.erf),
    "sine": (moments.sine, jnp.sin),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_quadrature(x64, name):
    closed_form, function = CLOSED[name]
    numeric = jax.jit(by_quadrature(function))
    for q in (1e-4, 0.5, 5.0):
        for correlation in (-0.7, 0.0, 0.9, 1 - 1e-7):
            actual, expected = (m(q, q * (1 - correlation)) for m in (closed_form, numeric))
            for field, a, b in zip(actual._fields, actual, expected, strict=True):
                # means of odd functions are 0 but for rounding
                assert float(a) == pytest.approx(float(b), rel=1e-7, abs=1e-14), (field, q)


@functools.partial(jax.jit, static_argnums=(0, 1))
def sampled(function, n, q, correlation, key):
    """Mean and standard deviation of each moment's integrand."""
    u, w = q**0.5 * jax.random.normal(key, (2, n))
    v = correlation * u + (1 - correlation**2) ** 0.5 * w
    f_u, f_v = function(u), function(v)
    slope = jax.vmap(jax.grad(function))
    s_u, s_v = slope(u), slope(v)
    samples = (
        f_u,
        f_u**2,
        (f_u - f_v) ** 2 / 2,
        s_u**2,
        s_u * s_v,
        s_u**2 * u**2,
        s_u * s_v * u * v,
        s_u**4,
    )
    return [(jnp.mean(sample), jnp.std(sample)) for sample in samples]


@pytest.mark.parametrize("function", [jax.nn.hard_tanh, *slow(jnp.tanh, jax.nn.gelu, jax.nn.selu)])
def test_moments_equal_those_of_a_sample(function, key):
    n, q, correlation = 1_000_000, 2.0, 0.4
    samples = sampled(function, n, q, correlation, key)
    kinks = (-1.0, 1.0) if function is jax.nn.hard_tanh else ()
    quadrature = jax.jit(by_quadrature(function, kinks))(q, q * (1 - correlation))
    for field, moment, sample in zip(quadrature._fields, quadrature, samples, strict=True):
        mean, error = float(sample[0]), float(sample[1]) / n**0.5
        assert abs(float(moment) - mean) < 5 * error, field


@pytest.mark.parametrize("name", CLOSED)
def test_small_angles_keep_their_digits_in_float32(name):
    """1 - c of 1e-6 is what float32 cannot hold as a correlation."""
    closed_form, _ = CLOSED[name]
    q, share = 0.7, 1e-6
    narrow = closed_form(jnp.float32(q), jnp.float32(q * share))
    with jax.enable_x64(True):
        wide = closed_form(q, q * share)
    np.testing.assert_allclose(narrow.difference, wide.difference, rtol=1e-5)


FORMS = [Leaky(0.0), moments.erf, moments.sine, by_quadrature(jax.nn.gelu)]


@functools.partial(jax.jit, static_argnames="get")
def slopes_of_the_difference(get, q, difference, share):
    """By its size alone; by Price; with q, along the share; and that by differences."""
    of_difference = jax.grad(lambda d: get(q, d).difference)(difference)
    of_both = jax.grad(lambda q, d: get(q, d).difference, (0, 1))(q, difference)
    step = 1e-6
    numeric = (
        get(q + step, difference + step * share).difference
        - get(q - step, difference - step * share).difference
    ) / (2 * step)
    along = of_both[0] + share * of_both[1]
    return of_difference, get(q, difference).slope_product, along, numeric


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.7])
def test_the_slope_of_the_difference_is_that_of_price(x64, share):
    """Price 1958: d E[f f'] / d cov = E[slope slope'], also where the inputs meet."""
    for get in FORMS:
        slope, price, along, numeric = slopes_of_the_difference(get, 0.8, 0.8 * share, share)
        assert float(slope) == pytest.approx(float(price), rel=1e-6)
        assert float(along) == pytest.approx(float(numeric), abs=1e-7)


def test_a_dead_signal_has_the_slopes_of_the_limit():
    selu = by_quadrature(jax.nn.selu)
    dead, faint = (selu(q, 0.0) for q in (0.0, 1e-9))
    assert float(dead.slope_square) == pytest.approx(float(faint.slope_square), rel=1e-3)
    assert float(dead.square) == 0.0


def test_a_kink_away_from_0_loses_no_digits(x64):
    """Of hard tanh E[f'(u) f'(v)] is P(|u| < 1, |v| < 1), an integral of a normal probability."""
    q, correlation = 2.0, 0.4
    hard_tanh = jax.jit(by_quadrature(jax.nn.hard_tanh, (-1.0, 1.0)))
    quadrature = hard_tanh(q, q * (1 - correlation))
    x, weight = np.polynomial.legendre.leggauss(200)
    spread = (q * (1 - correlation**2)) ** 0.5
    inside = jax.scipy.stats.norm.cdf((1 - correlation * x) / spread)
    inside = inside - jax.scipy.stats.norm.cdf((-1 - correlation * x) / spread)
    density = np.exp(-(x**2) / (2 * q)) / (2 * np.pi * q) ** 0.5
    assert float(quadrature.slope_product) == pytest.approx(
        float(np.sum(weight * density * inside)), rel=1e-7
    )
    # narrow angles too: the whole of the slope's mass where the inputs meet
    near = hard_tanh(q, q * 1e-9)
    assert float(near.slope_product) == pytest.approx(float(near.slope_square), rel=1e-4)
