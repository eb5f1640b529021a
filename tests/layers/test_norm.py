"""Normalisation against Flax, and dropout against its definition."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import layers
from vanishing.meanfield import signal


def squares(apply):
    return lambda params, x: jnp.sum(jnp.sin(apply(params, x)))


@pytest.mark.parametrize("shape", [*slow(((8, 5),)), (3, 4, 4, 5)])
def test_batch_norm_equals_flax_in_training_and_after(x64, key, shape):
    x = 3 + 2 * jax.random.normal(key, shape)
    layer = layers.batch_norm(momentum=0.9, epsilon=1e-3)
    _, state = layer.init(key, x)
    params = {"scale": jnp.arange(1.0, 6.0), "bias": jnp.linspace(-1, 1, 5)}
    for train in (True, False):
        flax = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=jnp.float64
        )
        variables = {"params": params, "batch_stats": state}
        expected, updates = flax.apply(variables, x, mutable=["batch_stats"])
        output, new_state = layer.apply(params, state, x, None, train)
        np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)  # Flax: E[x^2] - E[x]^2
        chex.assert_trees_all_close(new_state, dict(updates["batch_stats"]), rtol=1e-9)

        def layer_output(p, x, train=train, state=state):
            return layer.apply(p, state, x, None, train).output

        def flax_output(p, x, flax=flax, state=state):
            return flax.apply({"params": p, "batch_stats": state}, x, mutable=["batch_stats"])[0]

        gradient, flax_gradient = (jax.grad(squares(f), 1) for f in (layer_output, flax_output))
        np.testing.assert_allclose(
            gradient(params, x), flax_gradient(params, x), rtol=1e-6, atol=1e-9
        )
        state = new_state


EXACT = {"dtype": jnp.float64, "use_fast_variance": False}  # not E[x^2] - E[x]^2, which cancels


@pytest.mark.parametrize(
    ("layer", "flax", "shape"),
    [
        (layers.layer_norm(), nn.LayerNorm(**EXACT), (4, 6, 6)),
        (layers.rms_norm(), nn.RMSNorm(**EXACT), (4, 6, 6)),
        *slow((layers.group_norm(2), nn.GroupNorm(2, **EXACT), (4, 6))),
        (layers.group_norm(3, epsilon=0.1), nn.GroupNorm(3, epsilon=0.1, **EXACT), (2, 4, 3, 6)),
    ],
    ids=["layer", "rms", "group", "group of an image"],
)
def test_norms_of_one_input_equal_flax(x64, key, layer, flax, shape):
    x = 3 + 2 * jax.random.normal(key, shape)
    params, state = layer.init(key, x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, flax.init(key, x)["params"])
    params = {"scale": jnp.arange(1.0, 7.0), "bias": jnp.linspace(-1, 1, 6)}
    params = {name: params[name] for name in layer.init(key, x).params}
    gradient, flax_gradient = (
        jax.jit(jax.value_and_grad(squares(apply), (0, 1)))
        for apply in (
            lambda p, x: layer.apply(p, state, x).output,
            lambda p, x: flax.apply({"params": p}, x),
        )
    )
    # float64's rounding, 1e-16, over gradients of which the norm's projection leaves a thousandth
    chex.assert_trees_all_close(gradient(params, x), flax_gradient(params, x), rtol=1e-9)


@pytest.mark.parametrize(
    "norm",
    [layers.layer_norm(0.5), layers.rms_norm(0.5), layers.group_norm(4, 0.5)],
    ids=["layer", "rms", "group"],
)
def test_theory_of_a_norm_is_what_it_does_to_many_units(key, norm):
    size = 40_000
    common, own, cotangents = jax.random.split(key, 3)
    a, b = jax.random.normal(common, (1, size)), jax.random.normal(own, (2, size))
    x = 0.5 + 0.6 * a + 0.8 * b  # of mean square 1.25, covariance 0.61 and mean 0.5
    params, state = norm.init(key, x)
    y, pullback = jax.vjp(lambda x: norm.apply(params, state, x).output, x)
    g = jax.random.normal(cotangents, x.shape)
    gain = jnp.sum(pullback(g)[0] ** 2) / jnp.sum(g**2)
    measured = [jnp.mean(y**2), jnp.mean((y[0] - y[1]) ** 2) / 2, jnp.mean(y), gain]
    after = layers.propagate(norm, signal(1.25, 0.61 / 1.25, mean=0.5, shape=(size,)))
    predicted_gain = jnp.exp(after.gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0])))
    predicted = [after.q, after.difference, after.mean, predicted_gain]
    # 4 standard errors of a mean square of 40,000 numbers: 4 (2 / 40,000)^0.5 = 0.028
    np.testing.assert_allclose(measured, predicted, atol=0.028)


@pytest.mark.slow
def test_a_small_group_multiplies_the_gradient_by_n_minus_2_over_n_minus_3(key):
    n, norm = 10, layers.group_norm(1, epsilon=0.0)
    x, g = jax.random.normal(key, (2, 100_000, n))
    params, state = norm.init(key, x)
    _, pullback = jax.vjp(lambda x: norm.apply(params, state, x).output, x)
    gain = jnp.mean(pullback(g)[0] ** 2) / jnp.mean(g**2)
    assert gain == pytest.approx((n - 2) / (n - 3), rel=0.01)  # 4 standard errors


def normalised(**place):
    return layers.propagate(layers.batch_norm(), signal(gaussian=True, **place))


def test_dropout_zeroes_its_share_and_keeps_the_mean(key):
    x, n = jnp.ones((100, 1000)), 100_000
    layer = layers.dropout(0.2)
    output = np.asarray(layer.apply({}, {}, x, key, True).output)
    assert set(np.unique(output)) == {0.0, np.float32(1.25)}
    # five standard errors of a share of 0.2
    assert abs(np.mean(output == 0) - 0.2) < 5 * (0.2 * 0.8 / n) ** 0.5
    np.testing.assert_array_equal(layer.apply({}, {}, x).output, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers.dropout(1.0), "dropout has rate 1.0"),
        (lambda: layers.batch_norm(momentum=2.0), "batch_norm has momentum 2.0"),
        (lambda: layers.batch_norm(epsilon=-1.0), "batch_norm has epsilon -1.0"),
        (lambda: layers.layer_norm(epsilon=-1.0), "layer_norm has epsilon -1.0"),
        (lambda: layers.rms_norm(epsilon=-1.0), "rms_norm has epsilon -1.0"),
        (lambda: layers.group_norm(2, epsilon=-1.0), "group_norm has epsilon -1.0"),
        (lambda: layers.group_norm(0), "group_norm has groups 0"),
        (
            lambda: layers.group_norm(3).init(jax.random.key(0), jnp.ones((2, 4, 8))),
            "a multiple of its 3 groups, but its input has shape (2, 4, 8)",
        ),
        (
            lambda: layers.propagate(layers.group_norm(3), signal(shape=(8,))),
            "3 groups, but 8 channels",
        ),
        (lambda: layers.dropout(0.5).apply({}, {}, jnp.ones(3), None, True), "give apply a key"),
        (
            lambda: normalised(shape=(4, 4, 8), batch=16),
            "covariance between places",
        ),
        (lambda: normalised(batch=3), "a batch of 4, not of 3"),
    ],
)
def test_norms_refuse(call, message):
    assert_refuses(call, message)


# Luther's derivation of Yang et al., ICLR 2019: the squared gradient's factor a layer, of dense,
# batch normalisation and ReLU, for a batch of this size
@pytest.mark.parametrize(
    ("batch", "factor"),
    [
        (8, 1.7882),
        *slow((16, 1.59), (32, 1.5219), (64, 1.4931), (128, 1.4797)),
        (10**6, 1.4669),
    ],
)
def test_batch_norm_with_relu_explodes_as_published(batch, factor):
    block = layers.serial(
        dense=layers.dense(64),
        norm=layers.batch_norm(epsilon=0.0),
        relu=layers.activation("relu"),
    )
    after = layers.propagate(layers.repeat(block, 20), signal(shape=(64,), batch=batch))
    gradients = after.walk.rows[0].gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0]))
    assert np.exp(gradients[3] - gradients[4]) == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize("batch", [8, *slow(32, 128)])
def test_linear_batch_norm_multiplies_by_b_minus_2_over_b_minus_3(batch):
    block = layers.serial(dense=layers.dense(64), norm=layers.batch_norm(epsilon=0.0))
    after = layers.propagate(layers.repeat(block, 20), signal(shape=(64,), batch=batch))
    gradients = after.walk.rows[0].gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0]))
    # Yang et al., ICLR 2019: the linear network
    assert np.exp(gradients[3] - gradients[4]) == pytest.approx((batch - 2) / (batch - 3), rel=1e-4)
