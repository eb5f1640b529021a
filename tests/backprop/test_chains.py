import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes
from vanishing import backprop, layers, theory


def output(name, weights, biases, x):
    for w, b in zip(weights, biases, strict=True):
        x = layers.ACTIVATIONS[name].function(w * x + b)
    return x


@over_random_shapes(
    depth=st.integers(1, 8), name=st.sampled_from(["sigmoid", "tanh", "softplus", "identity"])
)
def test_the_product_of_factors_is_the_gradient(rng, depth, name):
    weights, biases = jnp.array(rng.normal(size=depth)), jnp.array(rng.normal(size=depth))
    result = backprop.chain(name, weights, biases, 0.3)
    to_biases, to_x = jax.jit(jax.grad(output, (2, 3)), static_argnums=0)(
        name, weights, biases, 0.3
    )
    assert_equal(result.gradient, to_x)
    assert_equal(jnp.prod(result.factors), to_x)
    assert_equal(result.bias_gradients, to_biases)
    np.testing.assert_allclose(
        result.log_gradients, np.log(np.abs(to_biases)), rtol=1e-9, atol=1e-9
    )
    assert_equal(jnp.abs(result.factors), theory.chain_factors(name, weights, biases, 0.3))
    assert_equal(result.activations[-1], output(name, weights, biases, jnp.asarray(0.3)))


def test_logarithms_outlive_the_gradient():
    result = backprop.chain("sigmoid", jnp.ones(100), jnp.zeros(100), 0.0)
    assert result.bias_gradients[0] == 0.0  # 10^-65 in float32
    # from the fourth neuron on every factor is s'(0.659) = 0.2248
    assert result.log_gradients[0] == pytest.approx(100 * np.log(0.2248), abs=0.2)


@pytest.mark.parametrize(("weight", "width"), [(3.9, 0.0), (5.0, 0.384969), (-10.0, 0.412687)])
@pytest.mark.parametrize("bias", [0.0, 2.5])
def test_the_window_is_as_wide_as_published_found_by_halving_and_nowhere_else(
    weight, width, bias, x64
):
    closed_form = backprop.window(jnp.asarray(weight), bias)
    bisection = backprop.window_by_bisection(jnp.asarray(weight), bias)
    assert float(closed_form.width) == pytest.approx(width, abs=1e-6)
    np.testing.assert_allclose(bisection, closed_form, atol=1e-12)
    # the textbook's own form of it
    if width:
        w = abs(weight)
        textbook = 2 / w * np.log(w * (1 + np.sqrt(1 - 4 / w)) / 2 - 1)
        assert float(closed_form.width) == pytest.approx(textbook, rel=1e-12)
    a = jnp.linspace(-3, 3, 10_001)
    slope = jax.vmap(jax.grad(jax.nn.sigmoid))(weight * a + bias)
    reaches = np.abs(weight * slope) >= 1
    inside = (a >= closed_form.low) & (a <= closed_form.high) & (width > 0)
    np.testing.assert_array_equal(reaches, inside)


@pytest.mark.slow
def test_the_widest_window_is_the_textbook_s(x64):
    widest = backprop.widest_window()
    assert float(widest.width) == pytest.approx(0.447743, abs=1e-6)
    assert float(widest.weight) == pytest.approx(6.894151, abs=1e-5)
    weights = jnp.linspace(4.0, 20.0, 16_001)
    widths = backprop.window_by_bisection(weights).width
    assert float(widths.max()) == pytest.approx(0.447743, abs=1e-6)
    assert float(weights[widths.argmax()]) == pytest.approx(6.894, abs=2e-3)
    assert (backprop.window(jnp.linspace(0.1, 4.0, 40)).width == 0).all()
