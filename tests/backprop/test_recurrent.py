import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

from tests.backprop.proof import assert_equal, over_random_shapes, small
from tests.helpers import assert_refuses, slow, unchecked
from vanishing import backprop, initializers, layers
from vanishing.layers import through_time

CELLS = {
    "rnn": (layers.rnn, backprop.rnn, backprop.rnn_gradient),
    "lstm": (layers.lstm, backprop.lstm, backprop.lstm_gradient),
    "gru": (layers.gru, backprop.gru, backprop.gru_gradient),
}


@over_random_shapes(
    examples=12,
    name=st.sampled_from(sorted(CELLS)),
    batch=small,
    time=st.integers(1, 6),
    features=small,
    units=small,
)
def test_through_time_equals_grad_of_the_layer(rng, name, batch, time, features, units):
    make, run, gradient = CELLS[name]
    layer = make(
        units,
        bias_init=jax.nn.initializers.normal(),
        recurrent_init=initializers.scaled(1.5)[0],
        sequence=True,
    )
    x = jnp.array(rng.normal(size=(batch, time, features)))
    params, state = layer.init(jax.random.key(int(rng.integers(2**31))), x)

    @jax.jit
    def automatic(params, x, delta):
        y, pull = jax.vjp(lambda params, x: layer.apply(params, state, x).output, params, x)
        return y, *pull(delta)

    @jax.jit
    def by_hand(params, x, delta):
        result = gradient(params, x, delta)
        return run(params, x), result.params, result.x

    delta = jnp.array(rng.normal(size=(batch, time, units)))
    assert_equal(by_hand(params, x, delta), automatic(params, x, delta))


@pytest.mark.parametrize("name", ["lstm", *slow("rnn", "gru")])
def test_errors_of_the_states_are_the_cotangents_that_perturbations_find(name, x64, key):
    make, _, gradient = CELLS[name]
    layer = make(3, sequence=True)
    x = jax.random.normal(key, (2, 5, 4))
    params, _ = layer.init(key, x)
    delta = jnp.zeros((2, 5, 3)).at[:, -1].set(1.0)
    automatic = through_time.state_cotangents(layer, params, x, lambda y: jnp.sum(y * delta))
    result = gradient(params, x, delta).errors
    assert result.keys() == automatic.keys()
    for part, cotangents in automatic.items():
        assert_equal(result[part], jnp.moveaxis(cotangents, 0, 1))


@pytest.mark.slow
@over_random_shapes(examples=4, name=st.sampled_from(["relu", "softplus", "sine", "identity"]))
def test_a_plain_network_takes_any_activation(rng, name):
    layer = layers.rnn(3, activation=name, sequence=True)
    x = jnp.array(rng.normal(size=(2, 4, 2)))
    params, state = layer.init(jax.random.key(1), x)
    y, pull = jax.vjp(lambda params: layer.apply(params, state, x).output, params)
    delta = jnp.array(rng.normal(size=y.shape))
    assert_equal(backprop.rnn_gradient(params, x, delta, name).params, pull(delta)[0])


def test_what_is_no_sequence_and_errors_of_the_last_time_alone_are_refused():
    x = jnp.ones((2, 4, 3))
    params, _ = layers.rnn(5).init(jax.random.key(0), x)
    assert_refuses(
        lambda: unchecked(backprop.rnn_gradient)(params, x, jnp.ones((2, 4, 4))),
        "output_errors has shape (2, 4, 4); it must be (2, 4, 5).",
    )
    assert_refuses(
        lambda: unchecked(backprop.rnn)(params, x[:, :0]), "x is float32 of shape (2, 0, 3)"
    )
    assert_refuses(lambda: unchecked(backprop.rnn)(params, x, "tahn"), "activation is 'tahn'")
