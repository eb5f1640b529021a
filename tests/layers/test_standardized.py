"""Weight standardisation against its formula, finite differences and drawn networks."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradient, assert_refuses, slow
from vanishing import initializers, layers, losses
from vanishing.layers import conv, dense, serial, weight_standardized
from vanishing.meanfield import signal
from vanishing.theory.prediction import input_signal

ONE = jnp.array([1.0, 0.0, 0.0, 0.0])  # moments of a gradient: two uncorrelated inputs
RELU = math.sqrt(2 / (1 - 1 / math.pi))  # Brock et al., ICLR 2021, sec. 4.1


def standardized(kernel, scale, gain, epsilon):
    """The formula, in NumPy, one output unit at a time."""
    result = np.zeros_like(kernel)
    for unit in range(kernel.shape[-1]):
        w = kernel[..., unit]
        size = np.sqrt(max(np.var(w) * w.size, epsilon))
        result[..., unit] = gain * scale[unit] * (w - np.mean(w)) / size
    return result


@pytest.mark.parametrize(
    ("inner", "shape"),
    [*slow((dense(2, *initializers.scaled(1.0, 1.0)), (5, 3))), (conv(2, (3, 2)), (2, 4, 3, 2))],
    ids=["dense", "conv"],
)
def test_weights_are_standardized_by_the_formula(x64, key, inner, shape):
    x = jax.random.normal(key, shape)
    layer = weight_standardized(inner, gain=1.7, epsilon=1e-2)
    params, state = layer.init(key, x)
    own, _ = inner.init(key, x)
    chex.assert_trees_all_close({k: v for k, v in params.items() if k != "scale"}, own, rtol=1e-15)
    np.testing.assert_array_equal(params["scale"], np.ones(2))
    # the second unit's weights are so small that epsilon is what they are divided by
    params["kernel"] = params["kernel"] * jnp.broadcast_to(
        jnp.array([1, 1e-3]), own["kernel"].shape
    )
    params["scale"] = jnp.array([0.5, -2.0])
    kernel = standardized(np.asarray(params["kernel"]), params["scale"], 1.7, 1e-2)
    expected = inner.apply({"kernel": kernel, "bias": params["bias"]}, state, x).output
    np.testing.assert_allclose(layer.apply(params, state, x).output, expected, rtol=1e-10)

    def loss(params):
        return jnp.sum(jnp.sin(layer.apply(params, state, x).output))

    # step 1e-6: truncation 1e-11 and rounding 1e-9 of gradients of 0.01 and more
    assert_gradient(loss, params, rtol=1e-5)


def test_penalties_find_the_kernel_and_not_the_scale(key):
    layer = weight_standardized(dense(3))
    params, _ = layer.init(key, jnp.ones((1, 4)))
    np.testing.assert_allclose(losses.l2(params), np.sum(params["kernel"] ** 2) / 2, rtol=1e-6)


def measured(net, key, x):
    """Mean square, half the mean-square difference of two inputs, log gain of the gradient."""
    init_key, cotangent_key = jax.random.split(key)
    params, state = net.init(init_key, x)
    y, pullback = jax.vjp(lambda x: net.apply(params, state, x).output, x)
    cotangent = jax.random.normal(cotangent_key, y.shape)
    gain = jnp.log(jnp.sum(pullback(cotangent)[0] ** 2)) - jnp.log(jnp.sum(cotangent**2))
    return jnp.mean(y**2), jnp.mean((y[0] - y[1]) ** 2) / 2, gain


@pytest.mark.slow
@pytest.mark.parametrize("gain", [RELU, 2**0.5], ids=["signal", "gradient"])
def test_theory_of_standardized_weights_is_what_drawn_networks_do(key, gain):
    width, depth, networks = 512, 6, 8
    weights = initializers.scaled(0.7, 0.3)
    block = serial(layers.activation("relu"), weight_standardized(dense(width, *weights), gain))
    net = serial(first=dense(width), rest=layers.repeat(block, depth))
    common, own = jax.random.split(key)
    x = 0.6 * jax.random.normal(common, (1, width)) + 0.8 * jax.random.normal(own, (2, width))
    keys = jax.random.split(key, networks)
    samples = np.asarray(jax.lax.map(jax.jit(lambda k: jnp.stack(measured(net, k, x))), keys))
    end = layers.propagate(net, input_signal(x))
    predicted = np.array([end.q, end.difference, end.gain.log_of(ONE)])
    off, error = samples.mean(0) - predicted, samples.std(0) / networks**0.5
    # 4 standard errors, and what is of order depth / width = 1.2 % in each
    assert (np.abs(off) < 4 * error + 0.012 * np.maximum(np.abs(predicted), 1)).all(), (off, error)


def test_the_gain_of_relu_keeps_the_signal_and_not_the_gradient():
    block = serial(layers.activation("relu"), weight_standardized(dense(64), RELU))
    after = layers.propagate(layers.repeat(block, 20), signal(shape=(64,), gaussian=True))
    assert float(after.q) == pytest.approx(1, rel=1e-5)
    # as batch normalisation does in large batches: Yang et al., ICLR 2019
    factor = math.exp(float(after.gain.log_of(ONE)) / 20)
    assert factor == pytest.approx(math.pi / (math.pi - 1), rel=1e-5)


def test_theory_takes_the_shape_and_the_bias_of_the_layer_and_survives_any_depth():
    layer = weight_standardized(conv(8, (3, 3), strides=2), 0.01)
    after = layers.propagate(layer, signal(shape=(8, 8, 4)))
    assert after.shape == (4, 4, 8)
    assert after.walk.has_parameters
    small = weight_standardized(dense(8, initializers.scaled(0.01).kernel_init), 3.0, epsilon=0.04)
    after = layers.propagate(small, signal(shape=(8,)))  # divided by epsilon: 9 * 0.01^2 / 0.04
    assert float(after.q) == pytest.approx(0.0225, rel=1e-5)
    deep = layers.repeat(weight_standardized(dense(8), 0.01), 1000)
    end = layers.propagate(deep, signal(shape=(8,), correlation=0.5))
    assert float(end.log_q) == pytest.approx(2000 * math.log(0.01), rel=1e-5)
    assert float(end.decorrelation) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_standardized(dense(2), epsilon=0.0), "epsilon 0.0; it must be over 0"),
        (
            lambda: weight_standardized(serial(first=dense(2))).init(
                jax.random.key(0), jnp.ones((1, 3))
            ),
            "have a kernel and no scale, such as dense or conv, but those of this layer are first",
        ),
        (
            lambda: layers.propagate(
                serial(a=weight_standardized(layers.activation("relu"))),
                signal(shape=(3,), gaussian=True),
            ),
            "those of this layer are no names",
        ),
        (
            lambda: weight_standardized(weight_standardized(dense(2))).init(
                jax.random.key(0), jnp.ones((1, 3))
            ),
            "those of this layer are kernel, bias, scale",
        ),
    ],
    ids=["epsilon", "serial", "activation", "twice"],
)
def test_standardizing_refuses(call, message):
    assert_refuses(call, message)
