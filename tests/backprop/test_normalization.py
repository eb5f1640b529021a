import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes, small
from tests.helpers import assert_refuses, unchecked
from vanishing import backprop, layers

places = st.sampled_from([(), (3,), (2, 3)])


def drawn(rng, batch, places, channels):
    x = jnp.array(rng.normal(1.0, 2.0, size=(batch, *places, channels)))
    delta = jnp.array(rng.normal(size=x.shape))
    params = {name: jnp.array(rng.normal(size=channels)) for name in ("scale", "bias")}
    return x, delta, params


@over_random_shapes(batch=st.integers(1, 6), places=places, channels=small)
def test_the_batch_s_own_statistics_equal_grad_of_the_layer(rng, batch, places, channels):
    x, delta, params = drawn(rng, batch, places, channels)
    layer = layers.batch_norm(epsilon=1e-3)
    _, state = layer.init(jax.random.key(0), x)

    @jax.jit
    def automatic(params, x, delta):
        def apply(params, x):
            return layer.apply(params, state, x, train=True).output

        y, pull = jax.vjp(apply, params, x)
        to_params, to_x = pull(delta)
        return y, (to_x, to_params["scale"], to_params["bias"])

    @jax.jit
    def by_hand(params, x, delta):
        y = backprop.batch_norm(x, params["scale"], params["bias"], 1e-3)
        return y, tuple(backprop.batch_norm_gradient(x, delta, params["scale"], 1e-3))

    assert_equal(by_hand(params, x, delta), automatic(params, x, delta))


@over_random_shapes(batch=small, places=places, channels=small)
def test_running_statistics_equal_grad_of_the_layer(rng, batch, places, channels):
    x, delta, params = drawn(rng, batch, places, channels)
    state = {
        "mean": jnp.array(rng.normal(size=channels)),
        "var": jnp.array(rng.uniform(size=channels)),
    }
    layer = layers.batch_norm(epsilon=1e-3)
    _, pull = jax.vjp(lambda params, x: layer.apply(params, state, x).output, params, x)
    result = backprop.frozen_batch_norm_gradient(x, delta, params["scale"], **state, epsilon=1e-3)
    to_params, to_x = pull(delta)
    assert_equal(result.x, to_x)
    assert_equal({"scale": result.scale, "bias": result.bias}, to_params)


def test_what_comes_back_has_nothing_along_the_mean_and_the_output(x64):
    x, delta, params = drawn(np.random.default_rng(0), 8, (), 3)
    back = backprop.batch_norm_gradient(x, delta, params["scale"], 0.0).x
    deviation = x - x.mean(axis=0)[None]
    for direction in (jnp.ones_like(x), deviation):
        projection = jnp.sum(back * direction, axis=0)
        np.testing.assert_allclose(projection, 0.0, atol=1e-12)


def test_another_delta_and_a_negative_epsilon_are_refused():
    x, scale = jnp.ones((6, 2)), jnp.ones(2)
    assert_refuses(
        lambda: unchecked(backprop.batch_norm_gradient)(x, jnp.ones((1, 2)), scale),
        "delta has shape (1, 2); it must be (6, 2).",
    )
    assert_refuses(
        lambda: unchecked(backprop.batch_norm)(x, scale, scale, -1e-5), "epsilon is -1e-05"
    )
