"""Pooling against Flax, and what it refuses."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import layers
from vanishing.meanfield import signal


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [
        *slow(((2, 7, 3), (2,), None, "VALID"), ((2, 7, 6, 3), (3, 2), 2, "SAME")),
        ((2, 7, 6, 3), (3, 2), (1, 2), ((2, 1), (0, 1))),
        ((2, 4, 5, 4, 3), (2, 2, 2), None, "VALID"),
    ],
    ids=["1 axis", "same", "padded", "3 axes"],
)
def test_pooling_equals_flax(x64, key, kind, shape, window, strides, padding):
    x = jax.random.normal(key, shape) - 3  # under the zeros that padding adds
    layer = getattr(layers, kind)(window, strides=strides, padding=padding)
    steps = (strides,) * len(window) if isinstance(strides, int) else strides or window

    def flax(x):
        return getattr(nn, kind)(x, window, steps, padding)

    def pool(x):
        return layer.apply({}, {}, x).output

    results = [jax.value_and_grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (pool, flax)]
    chex.assert_trees_all_close(*results, rtol=1e-12)
    np.testing.assert_allclose(pool(x), flax(x), rtol=1e-12)


def test_pooling_keeps_the_dtype(key):
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.ones((1, 4, 4, 2), dtype)
        for layer in (layers.max_pool((2, 2)), layers.avg_pool((2, 2)), layers.global_avg_pool()):
            assert layer.apply({}, {}, x).output.dtype == dtype


@pytest.mark.parametrize("axes", [1, 3])
def test_global_avg_pool_is_the_mean_over_places(key, axes):
    x = jax.random.normal(key, (2, *(3, 4, 5)[:axes], 6))
    expected = np.asarray(x).reshape(2, -1, 6).mean(1)
    output = layers.global_avg_pool().apply({}, {}, x).output
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers.max_pool(()), "max_pool has a window of size ()"),
        (lambda: layers.max_pool((2, 0)), "max_pool has a window of size (2, 0)"),
        (lambda: layers.avg_pool((1, 1, 1, 1)), "1 to 3 axes of places"),
        (lambda: layers.avg_pool((2, 2), strides=(2,)), "strides (2,)"),
        (lambda: layers.avg_pool((2, 2), strides=0), "strides 0"),
        (lambda: layers.max_pool((2, 2), padding="CIRCULAR"), "max_pool has padding 'CIRCULAR'"),
        (lambda: layers.max_pool((2,), padding=((2, 0),)), "under the window (2,)"),
        (lambda: layers.max_pool((2, 2), padding=((1, 0),)), "for each of 2 axes"),
        (
            lambda: layers.max_pool((2, 2)).apply({}, {}, jnp.ones((2, 4, 3))),
            "its input has shape (2, 4, 3)",
        ),
        (
            lambda: layers.avg_pool((5,)).apply({}, {}, jnp.ones((2, 4, 3))),
            "window of size (5,), but its input has shape (2, 4, 3)",
        ),
        (
            lambda: layers.global_avg_pool().apply({}, {}, jnp.ones((2, 3))),
            "its input has shape (2, 3)",
        ),
        (
            lambda: layers.propagate(layers.serial(p=layers.max_pool((2,))), signal(shape=(4, 3))),
            "p: max_pool depends on the covariance between places",
        ),
        (
            lambda: layers.propagate(layers.global_avg_pool(), signal(shape=(4, 3))),
            "global_avg_pool depends on the covariance between places",
        ),
    ],
)
def test_pooling_refuses(call, message):
    assert_refuses(call, message)
