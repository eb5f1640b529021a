import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import layers, networks
from vanishing.probing import probe


def trace_of(activation="sigmoid", depth=12, wrap=lambda block: block):
    net = networks.mlp(3, depth=depth, width=16, activation=activation, wrap=wrap)
    x = jax.random.normal(jax.random.key(1), (8, 16))
    params, state = net.init(jax.random.key(0), x)
    return probe(lambda p: jnp.mean(net.apply(p, state, x).output ** 2))(params).trace


@pytest.mark.parametrize("wrap", [lambda block: block, layers.residual])
def test_gains_add_up_to_the_whole_however_they_are_summed(wrap):
    trace = trace_of(wrap=wrap)
    budget = trace.budget()
    rms = trace.backward.rms
    first, last = trace.names.index(budget.first), trace.names.index(budget.last)
    np.testing.assert_allclose(budget.total, np.log10(rms[first] / rms[last]), rtol=1e-5)
    for groups in (budget.by_kind, budget.by_param, budget.by_place):
        np.testing.assert_allclose(sum(groups.values()), budget.total, rtol=1e-5)


def test_it_charges_the_sigmoid_and_says_so():
    budget = trace_of().budget()
    assert budget.by_kind["nonlinearity"] < -12 * 0.6  # a slope of at most 1/4 a layer
    assert abs(budget.by_kind["matmul"]) < 1
    assert "decades lost between output.dense and first.dense" in budget.sentence()
    assert "lost in sigmoid" in budget.sentence()
    assert "nonlinearity" in str(budget)


def test_the_path_of_a_residual_network_is_the_skip_connection():
    budget = trace_of("relu", wrap=layers.residual).budget()
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
