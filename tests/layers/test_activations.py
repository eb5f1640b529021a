import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests.helpers import central_difference
from vanishing import initializers, layers

X = np.concatenate([np.linspace(-20, -0.01, 400), np.linspace(0.01, 20, 400)])
KINKS = (-3.0, -1.0, 0.0, 1.0, 3.0)

BY_HAND = {  # written with NumPy and SciPy from the papers' formulas
    "identity": lambda x: x,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * special.expit(x),
    "swish": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "sine": np.sin,
    "erf": special.erf,
}


def function_of(name):
    layer = layers.activation(name)
    variables = layer.init(jax.random.key(0), jnp.ones(1))
    return lambda x: layer.apply(*variables, x).output


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_values_are_the_papers(x64, name):
    # 1 + tanh cancels to one rounding, 1e-16, times |x| up to 20: the absolute part
    actual, expected = function_of(name)(jnp.asarray(X)), BY_HAND[name](X)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_slopes_equal_finite_differences(x64, name):
    x = X[np.min(np.abs(X[:, None] - np.array(KINKS)), axis=1) > 1e-3]
    slope = jax.vmap(jax.grad(function_of(name)))(jnp.asarray(x))
    # rounding: 1e-16 of a value up to 20, over a step of 1e-5
    expected = central_difference(BY_HAND[name], x, step=1e-5)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_the_table_has_the_largest_slope(x64, name):
    x = np.linspace(-30, 30, 600_001) + 1e-7  # no point on a kink
    slopes = np.abs(central_difference(BY_HAND[name], x, step=1e-8 if name == "selu" else 1e-6))
    assert slopes.max() == pytest.approx(layers.ACTIVATIONS[name].largest_slope, rel=2e-4)


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_the_table_says_where_the_slope_is_under_a_hundredth_of_its_largest(name):
    facts = layers.ACTIVATIONS[name]
    limit, (low, high) = 0.01 * facts.largest_slope, facts.saturation
    for side, edge in ((-1, low), (1, high)):
        if np.isinf(edge):
            far = side * np.linspace(15, 30, 1001)
            assert np.abs(central_difference(BY_HAND[name], far)).max() >= limit
            continue
        outside = edge + side * np.linspace(2e-3, 20, 2001)
        inside = edge - side * 2e-3
        assert np.abs(central_difference(BY_HAND[name], outside)).max() < limit
        assert np.abs(central_difference(BY_HAND[name], inside)) >= limit


def test_prelu_learns_its_slope_as_flax_does(x64, key):
    x = jax.random.normal(key, (5, 3))
    layer, flax = layers.activation("prelu"), nn.PReLU(negative_slope_init=0.25)
    params, state = layer.init(key, x)

    def loss(slope):
        return jnp.sum(layer.apply({"negative_slope": slope}, state, x).output ** 2)

    def flax_loss(slope):
        return jnp.sum(flax.apply({"params": {"negative_slope": slope}}, x) ** 2)

    assert params["negative_slope"] == flax.init(key, x)["params"]["negative_slope"] == 0.25
    np.testing.assert_allclose(
        jax.value_and_grad(loss)(params["negative_slope"]),
        jax.value_and_grad(flax_loss)(params["negative_slope"]),
        rtol=1e-12,
    )


def test_every_derived_initializer_exists():
    assert {facts.initializer for facts in layers.ACTIVATIONS.values()} <= set(
        initializers.INITIALIZERS
    )


def test_any_function_can_be_an_activation():
    assert layers.activation(jnp.cos).apply({}, {}, jnp.zeros(2)).output.tolist() == [1, 1]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="activation is 'rely'; it must be one of identity, sigm"):
        layers.activation("rely")
