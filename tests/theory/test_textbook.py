"""The chain of single neurons against `jax.grad`, and Nielsen's ratio of learning speeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import theory


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu"])
def test_the_product_of_factors_is_the_derivative(x64, name, key):
    weights, biases = jax.random.normal(key, (2, 6))
    function = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}[name]

    def chain(x):
        for w, b in zip(weights, biases, strict=True):
            x = function(w * x + b)
        return x

    product = jnp.prod(theory.chain_factors(name, weights, biases, 0.3))
    assert float(product) == pytest.approx(abs(float(jax.grad(chain)(0.3))), rel=1e-12)


def test_no_sigmoid_factor_exceeds_a_quarter_of_its_weight(key):
    weights, biases = 5 * jax.random.normal(key, (2, 100))
    factors = theory.chain_factors("sigmoid", weights, biases, 0.0)
    assert np.all(factors <= jnp.abs(weights) / 4)


def test_nielsens_layers_learn_4_9_times_faster_than_those_before():
    """Chapter 5 publishes norms of 0.003, 0.017, 0.070 and 0.285: a ratio of 4.58 to 4.89."""
    ratio = float(theory.learning_speed_ratio("sigmoid", 1.0, 1.0))
    assert ratio == pytest.approx(4.88, abs=0.005)
