import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradient, assert_refuses, slow
from vanishing import initializers, layers, theory
from vanishing.meanfield import signal


def assert_equals_flax(layer, flax, key, x, rtol):
    """Parameters of the same shapes; with the same values, the same loss and gradients."""
    params, state = layer.init(key, x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, flax.init(key, x)["params"])

    def squares(apply):
        return lambda params, x: jnp.sum(jnp.sin(apply(params, x)))

    gradient, flax_gradient = (
        jax.jit(jax.value_and_grad(squares(apply), (0, 1)))
        for apply in (
            lambda p, x: layer.apply(p, state, x).output,
            lambda p, x: flax.apply({"params": p}, x),
        )
    )
    chex.assert_trees_all_close(gradient(params, x), flax_gradient(params, x), rtol=rtol)


def test_dense_equals_flax_given_the_same_parameters(x64, key):
    x = jax.random.normal(key, (5, 4, 3))
    layer, flax = layers.dense(7, *initializers.scaled(1.3, 0.2)), nn.Dense(7, dtype=jnp.float64)
    assert_equals_flax(layer, flax, key, x, rtol=1e-12)


def test_layers_without_bias_equal_those_of_flax(x64, key):
    drawn = initializers.scaled(1.3, 0.2).kernel_init
    x = jax.random.normal(key, (5, 6, 6, 3))
    for layer, flax in (
        (layers.dense(7, drawn, None), nn.Dense(7, use_bias=False, dtype=jnp.float64)),
        (
            layers.conv(7, (3, 3), kernel_init=drawn, bias_init=None),
            nn.Conv(7, (3, 3), use_bias=False, dtype=jnp.float64),
        ),
    ):
        assert_equals_flax(layer, flax, key, x, rtol=1e-12)


def test_theory_takes_no_bias_for_one_of_0(key):
    x = jax.random.normal(key, (4, 16))
    drawn = initializers.he_normal()
    with_zeros, without = (
        theory.predict(layers.serial(layers.dense(8, drawn, bias)), x)
        for bias in (initializers.zeros, None)
    )
    chex.assert_trees_all_equal(with_zeros.log_backward, without.log_backward)


def test_dense_gradient_equals_finite_differences(x64, key):
    x = jax.random.normal(key, (4, 3))
    layer = layers.dense(2, *initializers.scaled(1.0, 1.0))
    params, state = layer.init(key, x)

    def loss(params):
        return jnp.sum(jnp.tanh(layer.apply(params, state, x).output) ** 2)

    # step 1e-6: truncation 1e-12 and rounding 1e-10 of values about 1
    assert_gradient(loss, params, rtol=1e-6)


def test_parameters_have_the_dtype_of_the_input(x64, key):
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
        params, _ = layers.dense(2).init(key, jax.ShapeDtypeStruct((1, 3), dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


def test_flatten_keeps_the_batch_axis(key):
    x = jnp.arange(24.0).reshape(2, 3, 4)
    output = layers.flatten().apply({}, {}, x).output
    np.testing.assert_array_equal(output, np.arange(24.0).reshape(2, 12))
    assert layers.flatten().apply({}, {}, x[:0]).output.shape == (0, 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.dense(0), "dense has features 0; it must be at least 1"),
        (lambda: layers.dense(2).init(jax.random.key(0), jnp.ones(3, int)), "floating-point"),
        (lambda: layers.dense(2).init(jax.random.key(0), jnp.ones(())), "shape ()"),
        (
            lambda: layers.dense(2).apply(
                {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, {}, jnp.ones((5, 4))
            ),
            "width 3, but x has shape (5, 4)",
        ),
    ],
    ids=["no features", "integers", "scalar", "another width"],
)
def test_dense_refuses(make, message):
    assert_refuses(make, message)


@pytest.mark.parametrize(
    ("strides", "padding"),
    [
        *slow((1, "SAME"), (1, "VALID"), (1, "CIRCULAR")),
        (2, "SAME"),
        (2, "CIRCULAR"),
        (1, ((1, 0), (2, 1))),
    ],
)
def test_conv_equals_flax_given_the_same_parameters(x64, key, strides, padding):
    x = jax.random.normal(key, (2, 7, 6, 3))
    layer = layers.conv(4, (3, 2), strides=strides, padding=padding)
    flax = nn.Conv(4, (3, 2), strides=strides, padding=padding, dtype=jnp.float64)
    assert_equals_flax(layer, flax, key, x, rtol=1e-9)


def test_conv_refuses_what_it_cannot_take(key):
    assert_refuses(lambda: layers.conv(0, (3, 3)), "conv has features 0")
    assert_refuses(
        lambda: layers.conv(4, (3, 3)).init(key, jnp.ones((2, 7, 3))),
        "its input has shape (2, 7, 3)",
    )


def test_dense_maps_second_moments_and_sums_over_its_inputs():
    """q -> sigma_w^2 q + sigma_b^2 (Poole et al. 2016, eq. 3); |W^T g|^2 is sigma_w^2 |g|^2."""
    layer = layers.dense(6, *initializers.scaled(1.5, 0.4))
    after = layers.propagate(layer, signal(2.0, 0.25, mean=0.7, shape=(4,)))
    assert float(after.q) == pytest.approx(1.5**2 * 2.0 + 0.4**2)
    assert float(after.covariance) == pytest.approx(1.5**2 * 0.5 + 0.4**2)
    assert (float(after.mean), after.shape, after.gaussian) == (0.0, (6,), True)
    gradient = jnp.array([1.0, 0.5, 0.0, 0.0])
    assert float(after.gain.log_of(gradient)) == pytest.approx(2 * np.log(1.5))
    assert float(after.gain.correlation_of(gradient)) == pytest.approx(0.5)
