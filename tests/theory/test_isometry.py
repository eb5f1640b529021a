"""Singular values: predicted against free probability's known cases, and against measured ones."""

import jax
import numpy as np
import pytest

from tests.helpers import slow
from vanishing import initializers, layers, theory

WIDTH, DEPTH = 300, 16


def drawn(name, sigma_w, sigma_b, orthogonal, key, width=WIDTH, depth=DEPTH):
    """The squared singular values of one network's Jacobian, at its fixed point."""
    kernel = "orthogonal" if orthogonal else "normal"
    scale = sigma_w if orthogonal else sigma_w / width**0.5
    weights = initializers.by_name(kernel, initializers.Scales(scale=scale))
    bias_init = initializers.scaled(1.0, sigma_b).bias_init
    block = layers.serial(
        layers.dense(width, weights.kernel_init, bias_init), layers.activation(name)
    )
    net = layers.repeat(block, depth)
    q = float(theory.fixed_point(name, sigma_w=sigma_w, sigma_b=sigma_b))
    if name == "identity":
        q = 1.0
    # the input's mean square at which the first pre-activations have the variance q*
    size = max(q - sigma_b**2, 0.0) ** 0.5 / sigma_w
    init_key, x_key = jax.random.split(key)
    x = size * jax.random.normal(x_key, (width,))
    params, state = net.init(init_key, x)
    values = theory.singular_values(lambda x: net.apply(params, state, x).output, x)
    return np.asarray(values, np.float64) ** 2


# Pennington et al., NeurIPS 2017 and AISTATS 2018: variance over squared mean at criticality
@pytest.mark.parametrize(
    ("name", "sigma_w", "orthogonal", "variance"),
    [
        ("identity", 1.0, False, DEPTH),
        ("identity", 1.0, True, 0),
        ("relu", 2**0.5, False, 2 * DEPTH),
        ("relu", 2**0.5, True, DEPTH),
    ],
)
def test_variances_are_the_published_ones(name, sigma_w, orthogonal, variance):
    spectrum = theory.predict_spectrum(name, sigma_w, 0.0, DEPTH, orthogonal=orthogonal)
    assert float(spectrum.mean) == pytest.approx(1, rel=1e-5)
    assert float(spectrum.variance) == pytest.approx(variance, abs=1e-4)


@pytest.mark.parametrize("depth", [1, 4, 64])
def test_the_largest_of_a_linear_gaussian_network_is_known(depth):
    spectrum = theory.predict_spectrum("identity", 1.0, 0.0, depth)
    expected = (depth + 1) ** (depth + 1) / depth**depth
    assert float(spectrum.largest) == pytest.approx(expected, rel=1e-4)
    orthogonal = theory.predict_spectrum("identity", 1.0, 0.0, depth, orthogonal=True)
    assert float(orthogonal.largest) == pytest.approx(1, rel=1e-4)


# the tolerances are those of one network of width 300, whose mean fluctuates with depth / width
@pytest.mark.parametrize(
    ("name", "scales", "orthogonal", "rtol"),
    [
        *slow(
            ("tanh", (1.05**0.5, 2.01e-5**0.5), True, 0.1),
            ("tanh", (1.05**0.5, 2.01e-5**0.5), False, 0.35),
            ("identity", (1.0, 0.0), False, 0.35),
        ),
        ("relu", (2**0.5, 0.0), True, 0.35),
    ],
)
def test_measured_singular_values_are_the_predicted_ones(name, scales, orthogonal, rtol, key):
    measured = drawn(name, *scales, orthogonal, key)
    predicted = theory.predict_spectrum(name, *scales, DEPTH, orthogonal=orthogonal)
    of_mean = float(predicted.mean)
    spread = measured.var() / measured.mean() ** 2
    assert spread == pytest.approx(float(predicted.variance) / of_mean**2, rel=rtol)
    top = measured.max() / measured.mean()
    assert top == pytest.approx(float(predicted.largest) / of_mean, rel=max(rtol, 0.1))


@pytest.mark.slow
def test_delta_orthogonal_convolution_is_an_isometry(key):
    """Xiao et al., ICML 2018: all singular values of the linear operator are sigma_w."""
    weights = initializers.by_name("delta_orthogonal", initializers.Scales(scale=1.3))
    conv = layers.conv(6, (3, 3), padding="CIRCULAR", kernel_init=weights.kernel_init)
    x = jax.random.normal(key, (5, 5, 6))
    params, state = conv.init(key, x[None])
    values = theory.singular_values(lambda x: conv.apply(params, state, x[None]).output[0], x)
    np.testing.assert_allclose(values, 1.3, rtol=1e-5)


def test_the_matrix_free_spectrum_equals_the_matrixs(key):
    net = layers.repeat(layers.serial(layers.dense(40), layers.activation("tanh")), 3)
    x = jax.random.normal(key, (40,))
    params, state = net.init(key, x)

    def function(x):
        return net.apply(params, state, x).output

    squares = np.asarray(theory.singular_values(function, x), np.float64) ** 2
    spectrum = theory.spectrum(function, x, key, probes=2000, iterations=200)
    # Hutchinson's error: sqrt(2 (1 + variance / mean^2) / (probes * size))
    error = (2 * (1 + squares.var() / squares.mean() ** 2) / (2000 * 40)) ** 0.5
    assert float(spectrum.mean) == pytest.approx(squares.mean(), rel=5 * error)
    assert float(spectrum.variance) == pytest.approx(squares.var(), rel=0.05)
    assert float(spectrum.largest) == pytest.approx(squares.max(), rel=1e-3)
