"""Gradients through time against differences, closed forms and mean-field theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses
from vanishing import initializers, layers, networks, theory
from vanishing.layers import through_time

MAKERS = {"rnn": layers.rnn, "lstm": layers.lstm, "gru": layers.gru}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_by_hand(name, params, x, nudges):
    """The last h, by the cells' formulas in NumPy, with a nudge on every part as it is made."""
    p = jax.tree.map(np.asarray, params)
    h = c = np.zeros((x.shape[0], 3))

    def sum_of(reads, remembers):
        total = x[:, t] @ p[reads]["kernel"] + h @ p[remembers]["kernel"]
        return total + sum(p[n]["bias"][None] for n in (reads, remembers) if "bias" in p[n])

    for t in range(x.shape[1]):
        if name == "rnn":
            h = np.tanh(sum_of("i", "h"))
        elif name == "lstm":
            i, f, g, o = (sum_of(f"i{gate}", f"h{gate}") for gate in "ifgo")
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g) + nudges["c"][t]
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = sigmoid(sum_of("ir", "hr")), sigmoid(sum_of("iz", "hz"))
            old = h @ p["hn"]["kernel"] + p["hn"]["bias"][None]
            new = x[:, t] @ p["in"]["kernel"] + p["in"]["bias"][None]
            h = (1 - z) * np.tanh(new + r * old) + z * h
        h = h + nudges["h"][t]
    return h


@pytest.mark.parametrize("name", MAKERS)
def test_cotangents_equal_differences_of_the_formulas(name, x64, key):
    layer = MAKERS[name](3, bias_init=jax.nn.initializers.normal())
    x = np.random.default_rng(0).normal(size=(2, 4, 2))
    params, _ = layer.init(key, x)
    by_part = through_time.state_cotangents(layer, params, x, lambda h: jnp.sum(h**2))
    assert set(by_part) == ({"c", "h"} if name == "lstm" else {"h"})
    step = 1e-5
    for part, cotangents in by_part.items():
        expected = np.zeros((4, 2, 3))
        for place in np.ndindex(expected.shape):
            for sign in (1, -1):
                nudges = {"c": np.zeros(expected.shape), "h": np.zeros(expected.shape)}
                nudges[part][place] = sign * step
                loss = np.sum(run_by_hand(name, params, x, nudges) ** 2)
                expected[place] += sign * loss / (2 * step)
        # truncation 1e-10 and rounding 1e-11, of the largest; single elements may be small
        scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(cotangents / scale, expected / scale, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_an_orthogonal_linear_network_keeps_the_norm_for_ever(x64, key):
    layer = layers.rnn(8, activation="identity", sequence=True)
    x = jax.random.normal(key, (3, 1000, 2))
    params, _ = layer.init(key, x)
    direction = jax.random.normal(key, (3, 8))
    logs = through_time.log_norms(layer, params, x, lambda h: jnp.sum(direction * h[:, -1]))["h"]
    expected = np.full(1000, np.log(np.linalg.norm(direction)))
    np.testing.assert_allclose(logs, expected, rtol=1e-11)


def test_a_scalar_network_multiplies_its_factors_where_their_square_would_underflow():
    w, u, steps = 0.4, 0.9, 45
    layer = layers.rnn(1)
    x = np.random.default_rng(0).normal(size=(1, steps, 1)).astype(np.float32)
    params = {"i": {"kernel": jnp.full((1, 1), u), "bias": jnp.zeros(1)}}
    params["h"] = {"kernel": jnp.full((1, 1), w)}
    logs = through_time.log_norms(layer, params, x, jnp.sum)["h"]
    h = np.zeros(steps + 1)
    for t in range(steps):
        h[t + 1] = np.tanh(w * h[t] + u * x[0, t, 0])
    log_factors = np.log(w * (1 - h[2:] ** 2))  # of the steps after each time
    expected = np.append(np.cumsum(log_factors[::-1])[::-1], 0.0)
    assert expected[0] < np.log(1e-23)  # its square is 0 in float32
    np.testing.assert_allclose(logs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_irnn_keeps_the_norm_while_its_units_are_active(x64, key):
    layer = networks.recurrent_layer("irnn", 20)
    x = jnp.ones((1, 50, 2))
    params, _ = layer.init(key, x)
    params["i"]["kernel"] = jnp.abs(params["i"]["kernel"])
    logs = through_time.log_norms(layer, params, x, jnp.sum)["h"]
    np.testing.assert_allclose(logs, np.full(50, np.log(20) / 2), rtol=1e-12)


@pytest.mark.slow
def test_they_run_in_a_batch_of_networks_and_in_jit(key):
    layer = layers.lstm(4)
    x = jax.random.normal(key, (3, 6, 2))
    keys = jax.random.split(key, 2)

    def logs(key):
        return through_time.log_norms(layer, layer.init(key, x).params, x, jnp.sum)

    together = jax.jit(jax.vmap(logs))(keys)
    for i in range(2):
        for part, alone in logs(keys[i]).items():
            np.testing.assert_allclose(together[part][i], alone, rtol=1e-5)


def test_a_network_is_refused_and_its_recurrent_part_is_not(key):
    net = networks.rnn(1, width=3)
    x = jnp.ones((2, 5, 1))
    params, _ = net.init(key, x)
    assert_refuses(
        lambda: through_time.log_norms(net, params, x, jnp.sum), "of a network that part"
    )


@pytest.mark.slow
def test_rnn_chi_is_the_factor_of_a_step_of_a_wide_network(key):
    sigma_x, steps = 0.7, 20
    layer = layers.rnn(512, kernel_init=initializers.scaled(sigma_x).kernel_init)
    x = jax.random.normal(key, (4, 10 + steps, 16))  # the state settles in ten steps
    direction = jax.random.normal(key, (4, 512))

    @jax.jit
    def run(params):
        return through_time.log_norms(layer, params, x, lambda h: jnp.sum(direction * h))["h"]

    logs = run(layer.init(key, x).params)
    measured = float(jnp.exp(2 * (logs[-1 - steps] - logs[-1]) / steps))
    # orthogonal weights, so sigma_w is 1; the same at every step, and of 512 units: 2 % seen
    assert measured == pytest.approx(float(theory.rnn_chi("tanh", 1.0, sigma_x=sigma_x)), rel=0.05)


def left_along_c(key, scale, steps, **options):
    """The mean of dL/dc some steps back, of that of the last; its standard error; what f reads."""
    units = 256
    layer = layers.lstm(units, recurrent_init=initializers.lecun_normal(), **options)
    x = scale * jax.random.normal(key, (32, 10 + steps, 16))

    @jax.jit
    def run(params):
        h = layer.apply(params, {}, x).output
        return h, through_time.state_cotangents(layer, params, x, jnp.sum)["c"]

    h, cotangents = run(layer.init(key, x).params)
    gain = np.mean(cotangents[-1 - steps], axis=0) / np.mean(cotangents[-1])
    sigma = float(np.sqrt(scale**2 + np.mean(np.square(h))))
    return gain.mean(), gain.std() / units**0.5, sigma


@pytest.mark.slow
def test_gate_gain_is_what_a_time_leaves_of_the_mean_gradient_along_the_cell(key):
    gain, _, sigma = left_along_c(key, scale=2.0, steps=5)
    predicted = float(theory.gate_gain(5, 1.0, sigma))
    # paths through h have either sign and nearly cancel; by unit the mean strays by 1 % a step
    assert gain ** (1 / 5) == pytest.approx(predicted ** (1 / 5), rel=0.03)


@pytest.mark.slow
def test_chrono_gain_is_the_same_for_chrono_gates(key):
    # inputs so weak that the gates stay at their biases
    gain, error, _ = left_along_c(key, scale=0.1, steps=40, chrono=100)
    assert abs(gain - float(theory.chrono_gain(40, 100))) < 5 * error < 0.1
