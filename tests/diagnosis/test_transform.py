import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vanishing
from tests.helpers import assert_refuses
from vanishing.diagnosis import assert_healthy, diagnose
from vanishing.probing import SUMMARIES

X = jnp.eye(8)
DEEP = [jnp.eye(8)] * 12


def sigmoids(params, x):
    for w in params:
        x = jax.nn.sigmoid(x @ w)
    return jnp.mean(x)


def healthy(w):
    return jnp.mean(jnp.tanh(X @ w) ** 2)


def kinds(diagnosis):
    return [finding.kind for finding in diagnosis.findings]


def test_a_loss_is_judged_by_all_that_the_rules_need():
    diagnosis = diagnose(sigmoids)(DEEP, X)
    trace = vanishing.probe(sigmoids, summaries=SUMMARIES)(DEEP, X).trace
    assert str(diagnosis) == str(diagnose(trace))
    assert kinds(diagnosis)[0] == "vanishing"
    assert not diagnosis.unjudged


def test_dead_units_are_seen_that_the_usual_summaries_of_a_probe_leave_out():
    def dead(w):
        return jnp.mean(jax.nn.relu(jnp.ones((16, 8)) @ w - 10) ** 2) + jnp.mean(w**2)

    assert "dead_units" in kinds(diagnose(dead)(jnp.eye(8)))


def test_options_are_those_of_a_probe():
    def loss(x, params):
        return sigmoids(params, x), "aux"

    diagnosis = diagnose(loss, 1, True, level="op", where="[1*].*|logistic")
    everything = diagnose(loss, argnums=(1,), has_aux=True, level="op")(X, DEEP)
    assert "logistic" in {site.op for site in everything.trace.sites}
    assert_refuses(lambda: diagnosis(X, DEEP), "where is '[1*].*|logistic'")
    chosen = diagnose(loss, 1, True, where="[1]**")(X, DEEP).trace
    assert set(chosen.names) == {"[1]", "[1]/sigmoid"}


@pytest.mark.parametrize("argnums", [0, (0, 1), -2])
def test_the_update_of_the_optimizer_is_looked_at(argnums):
    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    args = (jnp.eye(8), X)
    diagnosis = diagnose(loss, argnums, optimizer=optax.sgd(1e3))(*args)
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    updates = [1e3 * jax.grad(loss, number)(*args) for number in numbers]
    np.testing.assert_allclose(
        diagnosis.trace.params.update, [jnp.linalg.norm(u) for u in updates], rtol=1e-5
    )
    assert "update_ratio" in kinds(diagnosis)
    assert "update_ratio" not in kinds(diagnose(loss, argnums, optimizer=optax.sgd(1e-2))(*args))


def test_an_update_is_that_of_the_optimizers_state():
    optimizer = optax.sgd(optax.piecewise_constant_schedule(1e-2, {3: 0.5}))
    state = optimizer.init(X)
    step = jax.jit(optimizer.update)
    norms = []
    for _ in range(6):
        diagnosis = diagnose(healthy, optimizer=optimizer)(X, opt_state=state)
        norms.append(float(diagnosis.trace.params.update[0]))
        state = step(jax.grad(healthy)(X), state)[1]
    np.testing.assert_allclose(norms, norms[0] * np.array([1, 1, 1, 0.5, 0.5, 0.5]), rtol=1e-5)


def test_optimizers_that_need_the_loss_are_given_it():
    diagnosis = diagnose(healthy, optimizer=optax.lbfgs())(X)
    grads = jax.grad(healthy)(X)
    expected = optax.lbfgs().update(
        grads,
        optax.lbfgs().init(X),
        X,
        value=healthy(X),
        grad=grads,
        value_fn=healthy,
    )[0]
    np.testing.assert_allclose(
        diagnosis.trace.params.update[0], jnp.linalg.norm(expected), rtol=1e-5
    )


def test_what_it_cannot_take_is_refused_in_one_line():
    trace = vanishing.probe(healthy)(X).trace
    for call, fragment in (
        (lambda: diagnose(trace, level="op"), "a trace is judged as it is"),
        (lambda: diagnose(healthy, optimizer="adam"), "optimizer is 'adam'; it must be one of"),
        (lambda: diagnose(healthy)(X, opt_state=()), "opt_state needs its optimiser"),
        (lambda: diagnose(3), "trace is 3; it must be a Trace of `vanishing.probe`, or a loss."),
        (lambda: jax.jit(diagnose(healthy))(X), "no numbers inside of jit"),
        (lambda: assert_healthy(trace), "loss is a Trace; it must be a function"),
        (lambda: assert_healthy(healthy, allow="dead"), "allow"),
    ):
        assert_refuses(call, fragment)


def test_a_healthy_network_passes_and_a_sick_one_fails_with_its_diagnosis():
    assert assert_healthy(healthy)(X).findings == ()
    with pytest.raises(AssertionError, match="the network is not healthy") as caught:
        assert_healthy(sigmoids)(DEEP, X)
    assert str(diagnose(sigmoids)(DEEP, X)) in str(caught.value)
    allowed = kinds(diagnose(sigmoids)(DEEP, X))
    assert kinds(assert_healthy(sigmoids, allow=allowed)(DEEP, X)) == allowed


def test_what_could_not_be_judged_is_not_healthy():
    with pytest.raises(AssertionError, match="Nothing could be judged"):
        assert_healthy(healthy, where=lambda site: False)(X)
