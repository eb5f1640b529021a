"""Quadrature against Gauss-Legendre on thousands of panels, and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from vanishing.layers import ACTIVATIONS
from vanishing.meanfield.quadrature import gaussian_mean, nodes, pair_nodes

_DECADES = np.concatenate([[0.0], np.geomspace(1e-6, 13.0, 400)])


def by_panels(f, kinks):
    """E[f(z)] by 20 Gauss-Legendre points on each panel between decades and kinks."""
    edges = np.unique(np.clip(np.concatenate([-_DECADES, _DECADES, kinks]), -13, 13))
    x, weight = np.polynomial.legendre.leggauss(20)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    z = middle[:, None] + half[:, None] * x
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.sum(half[:, None] * weight * density * np.asarray(f(jnp.asarray(z))))


FEW = ["relu", "hard_tanh", "selu", "gelu", "softplus", "erf"]
REST = [name for name in ACTIVATIONS if name not in (*FEW, "sine")]


@pytest.mark.parametrize("name", [*FEW, *slow(*REST)])
def test_means_are_right_to_eight_digits_at_every_scale(x64, name):
    """Of f, f^2 and f'^2; the sine, which turns without end, has a closed form."""
    facts = ACTIVATIONS[name]

    def slope_square(x):
        return jax.jvp(facts.function, (x,), (jnp.ones_like(x),))[1] ** 2

    for q in (1e-8, 1e-3, 1.0, 30.0, 1e3):
        sigma = q**0.5
        kinks = sorted({0.0, *facts.kinks})
        rule = nodes([kink / sigma for kink in kinks])
        size = by_panels(lambda z, s=sigma: facts.function(s * z) ** 2, np.array(kinks) / sigma)
        for moment, scale in (
            (facts.function, size**0.5),  # which may be 0 in the mean
            (lambda x: facts.function(x) ** 2, 0.0),
            (slope_square, 0.0),
        ):
            expected = by_panels(lambda z, f=moment, s=sigma: f(s * z), np.array(kinks) / sigma)
            mean = float(jnp.sum(rule.weight * moment(sigma * rule.z)))
            assert abs(mean - expected) < 1e-8 * max(abs(expected), scale), (q, mean, expected)


def test_a_polynomial_has_the_moments_of_a_normal_variable(x64):
    for power, moment in ((0, 1), (2, 1), (4, 3), (6, 15), (8, 105)):
        assert gaussian_mean(lambda z, p=power: z**p) == pytest.approx(moment, rel=1e-12)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.5, 0.999])
def test_pairs_have_the_moments_of_correlated_normal_variables(x64, correlation):
    rule = pair_nodes(jnp.arccos(correlation))

    def mean(f):
        return float(jnp.sum(rule.weight * f(rule.u, rule.v)))

    # Isserlis: E[u^2 v^2] = 1 + 2 c^2
    assert mean(lambda u, v: jnp.ones_like(u)) == pytest.approx(1, rel=1e-12)
    assert mean(lambda u, v: u**2) == pytest.approx(1, rel=1e-12)
    assert mean(lambda u, v: v**2) == pytest.approx(1, rel=1e-12)
    assert mean(lambda u, v: u * v) == pytest.approx(correlation, abs=1e-12)
    assert mean(lambda u, v: u**2 * v**2) == pytest.approx(1 + 2 * correlation**2, rel=1e-12)
    # Sheppard: P(u > 0, v > 0) = 1/4 + asin(c) / (2 pi)
    quadrant = mean(lambda u, v: 1.0 * (u > 0) * (v > 0))
    assert quadrant == pytest.approx(0.25 + np.arcsin(correlation) / (2 * np.pi), rel=1e-12)


@pytest.mark.parametrize("q", [0.1, 1.0, 10.0])
def test_pairs_of_a_smooth_function_equal_the_trapezoid_rule_in_the_plane(x64, q):
    """The trapezoid rule is exact to rounding for what is smooth on the scale of its step."""
    correlation, sigma = 0.6, q**0.5
    z = np.linspace(-9, 9, 721)
    weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    u, w = np.meshgrid(z, z)
    v = correlation * u + (1 - correlation**2) ** 0.5 * w
    expected = np.sum(np.outer(weight, weight) * np.tanh(sigma * u) * np.tanh(sigma * v))
    rule = pair_nodes(jnp.arccos(correlation))
    mean = jnp.sum(rule.weight * jnp.tanh(sigma * rule.u) * jnp.tanh(sigma * rule.v))
    assert float(mean) == pytest.approx(expected, rel=1e-9)
