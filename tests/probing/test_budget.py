import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from vanishing import layers, networks
from vanishing.probing import probe


def bare(block):
    return block


@functools.cache
def trace_of(activation, wrap):
    net = networks.mlp(3, depth=12, width=16, activation=activation, wrap=wrap)
    x = jax.random.normal(jax.random.key(1), (8, 16))
    params, state = jax.jit(net.init)(jax.random.key(0), x)
    return probe(lambda p: jnp.mean(net.apply(p, state, x).output ** 2))(params).trace


@pytest.mark.parametrize("wrap", [bare, *slow(layers.residual)])
def test_gains_add_up_to_the_whole_however_they_are_summed(wrap):
    trace = trace_of("sigmoid", wrap)
    budget = trace.budget()
    rms = trace.backward.rms
    first, last = trace.names.index(budget.first), trace.names.index(budget.last)
    np.testing.assert_allclose(budget.total, np.log10(rms[first] / rms[last]), rtol=1e-5)
    for groups in (budget.by_kind, budget.by_param, budget.by_place):
        np.testing.assert_allclose(sum(groups.values()), budget.total, rtol=1e-5)


def test_it_charges_the_sigmoid_and_says_so():
    budget = trace_of("sigmoid", bare).budget()
    assert budget.by_kind["nonlinearity"] < -12 * 0.6  # a slope of at most 1/4 a layer
    assert abs(budget.by_kind["matmul"]) < 1
    assert "decades lost between output.dense and first.dense" in budget.sentence()
    assert "lost in sigmoid" in budget.sentence()
    assert "nonlinearity" in str(budget)


def test_the_path_of_a_residual_network_is_the_skip_connection():
    budget = trace_of("relu", layers.residual).budget()
    assert {charge.name for charge in budget.charges} >= {f"hidden[{i}]/add" for i in range(11)}
    assert not any("dense" in charge.name for charge in budget.charges[1:-1])


def test_a_recurrent_path_leads_through_time():
    def loss(p, xs):
        step = lambda h, x: (jnp.tanh(x @ p["wx"] + h @ p["wh"]), None)  # noqa: E731
        return jnp.mean(jax.lax.scan(step, jnp.zeros((2, 4)), xs)[0] ** 2)

    params = {"wx": 10 * jnp.ones((3, 4)), "wh": 0.1 * jnp.eye(4)}
    budget = probe(loss)(params, 0.01 * jnp.ones((20, 2, 3))).trace.budget()
    assert budget.first == "wh[t=0]"
    assert budget.total < -15, "a tenth a step, over nineteen steps"


def test_a_gradient_of_exactly_nothing_is_said():
    def loss(p, x):
        h = jax.nn.relu(x @ p["a"] - 100.0)
        return jnp.mean(h @ p["b"] + 1)

    budget = probe(loss)({"a": jnp.eye(3), "b": jnp.eye(3)}, jnp.ones((2, 3))).trace.budget()
    assert "exactly 0" in budget.sentence()


def test_it_begins_at_the_end_that_carries_most_of_the_gradient():
    def loss(p, x):
        h = jnp.tanh(x @ p["a"])
        main = jnp.mean((h @ p["main"]) ** 2)
        extra = jnp.tanh(jnp.sum(h @ p["extra"]))
        return main + 1e-6 * jnp.mean(jnp.tanh(h @ p["extra"])) + 1e-3 * extra**2

    params = {name: jnp.eye(3) for name in ("a", "main", "extra")}
    budget = probe(loss)(params, jnp.ones((2, 3))).trace.budget()
    assert (budget.first, budget.last) == ("a", "main")


def gru(p, xs):
    """A GRU by hand, in whose first step the reset gate has nothing to let through."""

    def step(h, x):
        z, r = (jax.nn.sigmoid(x @ p["x" + gate] + h @ p["h" + gate]) for gate in "zr")
        return (1 - z) * jnp.tanh(x @ p["xn"] + r * (h @ p["hn"])) + z * h, None

    return jnp.mean(jax.lax.scan(step, jnp.zeros(xs.shape[1:]), xs)[0] ** 2)


def test_a_gradient_of_nothing_on_one_way_does_not_hide_the_others():
    params = {a + gate: 0.3 * jnp.eye(3) for a in "xh" for gate in "zrn"}
    budget = probe(gru)(params, jnp.ones((6, 2, 3))).trace.budget()
    assert not budget.stopped
    assert budget.first.endswith("[t=0]"), "and not at the input of a later step"

    def loss(p, x):
        h = jnp.tanh(x @ p["a"])
        return jnp.mean((jax.nn.relu(h @ p["dead"] - 100) + h @ p["c"]) ** 2)

    params = {name: jnp.eye(3) for name in ("a", "dead", "c")}
    budget = probe(loss)(params, jnp.ones((2, 3))).trace.budget()
    assert (budget.first, budget.stopped) == ("a", "")
    assert "c" in [charge.name for charge in budget.charges]


def test_a_dead_branch_after_a_row_does_not_stop_the_way_that_begins_there():
    def loss(p, x):
        h = jnp.tanh(x @ p["a"])
        return jnp.mean(h**2) + jnp.mean(jax.nn.relu(h @ p["dead"] - 100) @ p["head"])

    budget = probe(loss)({n: jnp.eye(3) for n in ("a", "dead", "head")}, jnp.ones((2, 3)))
    budget = budget.trace.budget()
    assert (budget.first, budget.last, budget.stopped) == ("a", "a/tanh", "")


def test_the_path_goes_the_way_that_carries_most():
    def loss(p, x):
        left, right = x @ p["left"], x @ p["right"]
        return jnp.mean(jnp.concatenate([1e-3 * left, right], 1) @ p["head"])

    params = {"left": jnp.eye(3), "right": jnp.eye(3), "head": jnp.ones((6, 3))}
    assert probe(loss)(params, jnp.ones((2, 3))).trace.budget().first == "right"
