"""Residual and gated blocks against their definitions, finite differences and drawn networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradient, assert_refuses
from vanishing import initializers, layers
from vanishing.layers import dense, highway, residual, serial
from vanishing.theory.prediction import input_signal


def test_residual_adds_its_input(key):
    x = jnp.arange(6.0).reshape(2, 3)
    branch = dense(3)
    params, state = branch.init(key, x)
    expected = x + branch.apply(params, state, x).output
    np.testing.assert_array_equal(residual(branch).apply(params, state, x).output, expected)


def test_a_residual_with_a_shortcut_adds_both_with_their_scales(key):
    x = jax.random.normal(key, (3, 4))
    block = residual(
        serial(dense(5), layers.activation("tanh")),
        shortcut=dense(5),
        shortcut_scale=0.6,
        branch_scale=0.8,
    )
    params, state = block.init(key, x)
    skip, branch = params["shortcut"], params["branch"][0]
    expected = 0.6 * (x @ skip["kernel"]) + 0.8 * jnp.tanh(x @ branch["kernel"])
    np.testing.assert_allclose(block.apply(params, state, x).output, expected, rtol=1e-5)
    assert not np.allclose(skip["kernel"], branch["kernel"])  # drawn from keys of their own
    bad = residual(dense(5), shortcut=dense(4))
    assert_refuses(lambda: bad.init(key, x), "residual adds its shortcut to its output")


def sigmoid_gate(width, bias=0.0, sigma_w=1.0):
    bias_init = initializers.by_name("constant", initializers.Scales(bias)).kernel_init
    kernel_init = initializers.scaled(sigma_w).kernel_init
    return serial(dense(width, kernel_init, bias_init), layers.activation("sigmoid"))


def test_highway_mixes_its_branch_and_its_input(x64, key):
    x = jax.random.normal(key, (3, 4))
    block = highway(dense(4), sigmoid_gate(4, -2.0))
    params, state = block.init(key, x)
    own, gate = params["branch"], params["gate"][0]
    t = 1 / (1 + np.exp(-(x @ gate["kernel"] - 2.0)))
    expected = t * (x @ own["kernel"]) + (1 - t) * x
    np.testing.assert_allclose(block.apply(params, state, x).output, expected, rtol=1e-12)

    def loss(params):
        return jnp.sum(jnp.sin(block.apply(params, state, x).output))

    assert_gradient(loss, params, rtol=1e-6)


def test_a_highway_with_a_shortcut_mixes_that(key):
    x = jax.random.normal(key, (3, 4))
    block = highway(dense(5), sigmoid_gate(5), shortcut=dense(5))
    params, state = block.init(key, x)
    t = jax.nn.sigmoid(x @ params["gate"][0]["kernel"])
    expected = t * (x @ params["branch"]["kernel"]) + (1 - t) * (x @ params["shortcut"]["kernel"])
    np.testing.assert_allclose(block.apply(params, state, x).output, expected, rtol=1e-5)


def measured(net, key, x):
    """Mean square, half the mean-square difference of two inputs, log gain of the gradient."""
    init_key, cotangent_key = jax.random.split(key)
    params, state = net.init(init_key, x)
    y, pullback = jax.vjp(lambda x: net.apply(params, state, x).output, x)
    cotangent = jax.random.normal(cotangent_key, y.shape)
    gain = jnp.log(jnp.sum(pullback(cotangent)[0] ** 2)) - jnp.log(jnp.sum(cotangent**2))
    return jnp.mean(y**2), jnp.mean((y[0] - y[1]) ** 2) / 2, gain


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", [None, "dense"], ids=["bare", "projected"])
def test_theory_of_a_highway_is_what_drawn_networks_do(key, shortcut):
    width, depth = 512, 6
    weights = initializers.scaled(1.5)
    block = highway(
        serial(dense(width, *weights), layers.activation("relu")),
        serial(dense(width, *initializers.scaled(1.5)), layers.activation("sigmoid")),
        shortcut=dense(width, *weights) if shortcut else None,
    )
    net = layers.repeat(block, depth)
    common, own = jax.random.split(key)
    x = 0.6 * jax.random.normal(common, (1, width)) + 0.8 * jax.random.normal(own, (2, width))
    keys = jax.random.split(key, 8)
    samples = jax.lax.map(jax.jit(lambda k: jnp.stack(measured(net, k, x))), keys)
    end = layers.propagate(net, input_signal(x))
    gain = end.gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0]))
    predicted = np.array([end.q, end.difference, gain])
    off = np.asarray(samples).mean(0) - predicted
    error = np.asarray(samples).std(0) / 8**0.5  # standard errors
    # and what is of order depth / width = 1.2 % in each
    assert (np.abs(off) < 4 * error + 0.012 * np.maximum(np.abs(predicted), 1)).all(), (off, error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda key, x: residual(dense(2)).init(key, x),
            "residual adds its input to its output, but the block maps",
        ),
        (
            lambda key, x: highway(dense(4), sigmoid_gate(3)).init(key, x),
            "highway mixes a gate with its input, but the block maps",
        ),
        (
            lambda key, x: highway(dense(3), sigmoid_gate(3)).init(key, x),
            "highway mixes a branch with its input, but the block maps",
        ),
    ],
    ids=["residual", "gate", "branch"],
)
def test_another_width_is_refused(key, make, message):
    assert_refuses(lambda: make(key, jnp.ones((5, 4))), message)
