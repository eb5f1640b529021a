import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import initializers, layers, probe
from vanishing.layers import through_time

CELLS = {
    "rnn": (layers.rnn, nn.SimpleCell),
    "lstm": (layers.lstm, nn.OptimizedLSTMCell),
    "gru": (layers.gru, nn.GRUCell),
}


@pytest.mark.parametrize("name", [*slow("rnn"), "lstm", "gru"])
def test_cells_equal_flax_given_the_same_parameters(name, x64, key):
    make, flax = CELLS[name]
    layer = make(5, bias_init=jax.nn.initializers.normal(), sequence=True)
    x = jax.random.normal(key, (4, 6, 3))
    params, state = layer.init(key, x)
    flax_layer = nn.RNN(flax(5, param_dtype=jnp.float64))
    ((module, flax_params),) = flax_layer.init(key, x)["params"].items()
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, flax_params)

    def squares(apply):
        loss = lambda params, x: jnp.sum(jnp.sin(apply(params, x)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))

    layer_apply = squares(lambda params, x: layer.apply(params, state, x).output)
    flax_apply = squares(lambda params, x: flax_layer.apply({"params": {module: params}}, x))
    chex.assert_trees_all_close(layer_apply(params, x), flax_apply(params, x), rtol=1e-10)
    last = make(5).apply(params, state, x).output
    np.testing.assert_array_equal(last, layer.apply(params, state, x).output[:, -1])


def test_any_axes_before_time_are_a_batch_and_layers_repeat(key):
    x = jax.random.normal(key, (2, 3, 6, 4))
    deep = layers.repeat(layers.gru(4, sequence=True), 2)
    params, state = deep.init(key, x)
    output = deep.apply(params, state, x).output
    assert output.shape == (2, 3, 6, 4)
    for i in range(2):
        np.testing.assert_allclose(deep.apply(params, state, x[i]).output, output[i], rtol=1e-5)


def test_gates_start_with_their_biases(key):
    spec = jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)
    open_gate = layers.lstm(2000, forget_bias=3.0, recurrent_init=initializers.zeros)
    biases = {n: p["bias"] for n, p in open_gate.init(key, spec).params.items() if "bias" in p}
    assert {n: set(np.asarray(b).tolist()) for n, b in biases.items()} == {
        "hi": {0.0},
        "hf": {3.0},
        "hg": {0.0},
        "ho": {0.0},
    }
    longest, units = 500, 2000
    chrono = layers.lstm(units, chrono=longest, recurrent_init=initializers.zeros)
    params, _ = chrono.init(key, spec)
    np.testing.assert_array_equal(params["hi"]["bias"], -params["hf"]["bias"])
    update = layers.gru(units, chrono=longest, recurrent_init=initializers.zeros)
    for bias in (params["hf"]["bias"], update.init(key, spec).params["iz"]["bias"]):
        u = np.exp(np.asarray(bias, np.float64))
        assert 1 - 1e-6 < u.min() < u.max() < (longest - 1) * (1 + 1e-6)
        # U(1, T - 1): mean T / 2, variance (T - 2)^2 / 12; five standard errors
        assert abs(u.mean() - longest / 2) < 5 * (longest - 2) / (12 * units) ** 0.5


@pytest.mark.parametrize(
    ("name", "part", "row", "rows"),
    [
        *slow(("rnn", "h", "rnn/tanh tanh", "rnn dot_general+add, rnn/tanh tanh")),
        (
            "lstm",
            "c",
            "rnn/add add",
            "rnn dot_general+add, rnn/sigmoid sigmoid, rnn/sigmoid#2 sigmoid, rnn/tanh tanh, "
            "rnn/sigmoid#3 sigmoid, rnn/add add, rnn/tanh#2 tanh",
        ),
        *slow(
            (
                "gru",
                "h",
                "rnn/add#2 add",
                "rnn dot_general+add, rnn.in dot_general+add, rnn.hn dot_general+add, rnn/sigmoid "
                "sigmoid, rnn/sigmoid#2 sigmoid, rnn/add add, rnn/tanh tanh, rnn/add#2 add",
            )
        ),
    ],
    ids=CELLS,
)
def test_a_probe_names_what_happens_at_a_time_and_sees_the_state_cotangents(
    name, part, row, rows, key
):
    layer, x = CELLS[name][0](5), jax.random.normal(key, (4, 3, 2))
    net = layers.serial(rnn=layer, output=layers.dense(2))
    params, state = net.init(key, x)
    trace = probe(lambda params: jnp.sum(net.apply(params, state, x).output ** 2))(params).trace
    places = [
        (n.removesuffix("[t=1]") + f" {site.op}") if n.endswith("[t=1]") else ""
        for n, site in zip(trace.names, trace.sites, strict=True)
    ]
    assert ", ".join(filter(None, places)) == rows

    def loss(h):
        return jnp.sum(layers.dense(2).apply(params["output"], {}, h).output ** 2)

    norms = through_time.log_norms(layer, params["rnn"], x, loss)[part]
    measured = trace.backward.rms[places.index(row)] * (4 * 5) ** 0.5
    assert float(measured) == pytest.approx(float(jnp.exp(norms[1])), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: layers.lstm(0), ("lstm has features 0", "at least 1")),
        (lambda: layers.gru(3, chrono=2), ("gru has chrono 2", "over 2")),
        (lambda: layers.rnn(3, activation="tan"), ("activation is 'tan'",)),
        (lambda: layers.rnn(3, activation="prelu"), ("the slope of prelu", "leaky_relu")),
        (
            lambda: layers.rnn(3).init(jax.random.key(0), jnp.ones((2, 5), int)),
            ("int32 of shape (2, 5)", "one_hot"),
        ),
        (
            lambda: layers.rnn(3).init(jax.random.key(0), jnp.ones(5)),
            ("float32 of shape (5,)", "x[..., None]"),
        ),
        (
            lambda: layers.rnn(3).apply(
                layers.rnn(3).init(jax.random.key(0), jnp.ones((2, 5, 4))).params,
                {},
                jnp.ones((2, 5, 3)),
            ),
            ("initialised for 4 features", "x has 3"),
        ),
    ],
    ids=["no units", "chrono", "activation", "prelu", "integers", "no time", "another width"],
)
def test_recurrent_layers_refuse(make, fragments):
    assert_refuses(make, *fragments)


def test_theory_says_that_it_does_not_follow_a_signal_through_time():
    assert layers.rnn(3).propagate is layers.lstm(3).propagate is layers.gru(3).propagate is None
