import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.diagnosis import diagnose, remedies
from vanishing.diagnosis.sizes import in_words

WIDTH = 32
X = jax.random.normal(jax.random.key(1), (16, WIDTH))
ORTHOGONAL = list(jax.random.orthogonal(jax.random.key(0), WIDTH, (10,)))


def chain(weights, x):
    for w in weights:
        x = x @ w
    return jnp.mean(x @ jnp.ones((WIDTH, 1)))


def found(loss, params, *args):
    return {f.kind: f for f in diagnose(loss)(params, *args).findings}


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "vanishing"), (2.0, "exploding")])
def test_the_factor_of_a_layer_is_that_of_its_weights_and_the_remedy_undoes_it(factor, kind):
    finding = found(chain, [factor * w for w in ORTHOGONAL], X)[kind]
    assert finding.evidence["factor_a_layer"] == pytest.approx(factor, rel=0.02)
    assert finding.cause == "initial_scale"
    assert f"about {1 / factor:.2g} times what it is" in finding.remedies[0].action


def test_three_layers_are_judged_like_ten():
    assert "vanishing" in found(chain, [1e-3 * w for w in ORTHOGONAL[:3]], X)
    assert found(chain, ORTHOGONAL[:3], X) == {}


def over_time(factor, steps):
    def loss(params, xs):
        def step(h, x):
            return h * params["keep"] + x, h

        return jnp.mean(jax.lax.scan(step, jnp.zeros_like(xs[0]), xs)[0] @ params["out"])

    params = {"keep": jnp.full((1, WIDTH), factor), "out": jnp.ones((WIDTH, 1))}
    return loss, params, jax.random.normal(jax.random.key(2), (steps, 16, WIDTH))


def test_a_recurrence_that_forgets_is_found_with_its_factor_a_step():
    loss, params, xs = over_time(0.5, 40)
    finding = found(loss, params, xs)["vanishing"]
    assert finding.cause == "recurrence"
    assert finding.evidence["factor_a_layer"] == pytest.approx(0.5, rel=0.01)
    assert found(*over_time(0.99, 40)) == {}


def test_a_fixed_point_iteration_may_forget_how_it_began():
    def loss(w, x):
        step = lambda h, _: (jnp.tanh(h @ w + x), None)  # noqa: E731
        return jnp.mean(jax.lax.scan(step, jnp.zeros_like(x), None, 60)[0] ** 2)

    assert "vanishing" not in found(loss, 0.4 * ORTHOGONAL[0], X)


def test_a_clean_bill_has_the_factors_that_plain_jax_measures():
    weights = [1.1 * w for w in ORTHOGONAL[:4]]
    diagnosis = diagnose(chain)(weights, X)
    assert diagnosis.findings == ()

    def signals(weights, x, slots):
        result = []
        for w, slot in zip(weights, slots, strict=True):
            x = x @ w + slot
            result.append(x)
        return jnp.mean(x @ jnp.ones((WIDTH, 1))), result

    slots = [jnp.zeros_like(X)] * 4
    (_, h), grads = jax.value_and_grad(signals, argnums=2, has_aux=True)(weights, X, slots)
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))  # noqa: E731
    trace = diagnosis.trace.single()
    words = in_words(trace, trace.budget())
    assert f"multiplied by {rms(grads[0]) / rms(grads[3]):.2g}" in words
    assert f"multiplied by {rms(h[3]) / rms(h[0]):.2g}" in words
    assert words in str(diagnosis)


def over_depth(w, x):
    """An equilibrium, whose first iterate adds to the others."""
    step = lambda h, _: (jnp.tanh(x + h @ w), None)  # noqa: E731
    return jnp.mean((jax.lax.scan(step, jnp.zeros_like(x), None, 60)[0] + x @ w) ** 2)


def test_an_equilibrium_beside_another_way_may_forget_how_it_began_too():
    assert found(over_depth, 0.4 * ORTHOGONAL[0], X) == {}


def blocks(skip, branch):
    kernels = list(jax.random.normal(jax.random.key(2), (20, 32, 32)) / 32**0.5)
    x = jax.random.normal(jax.random.key(3), (16, 32))

    def loss(kernels):
        h = x
        for kernel in kernels:
            h = skip * h + branch * jnp.tanh(h @ kernel)
        return jnp.mean(h**2)

    return diagnose(loss)(kernels)


def test_a_skip_connection_times_more_than_1_is_the_cause_of_what_its_stream_saturates():
    (told,) = blocks(2.0, 0.1).findings
    assert (told.kind, told.cause) == ("exploding", "residual_scale")
    assert told.remedies[0] == remedies.UNSCALED


def test_alike_layers_are_one_finding_though_each_has_its_own_factor():
    (told,) = blocks(1.0, 3.0).findings
    assert told.kind == "saturated"
    assert len(told.also) > 8


def test_a_number_of_the_program_that_loses_the_gradient_is_told():
    x = jax.random.normal(jax.random.key(3), (16, 4))

    def loss(p):
        return jnp.mean((x @ p["a"] + 1e-9 * jnp.tanh(x @ p["b"]) @ p["c"] - 1) ** 2)

    keys = dict(zip("abc", jax.random.split(jax.random.key(4), 3), strict=True))
    params = {name: jax.random.normal(key, (4, 4)) / 2 for name, key in keys.items()}
    (told,) = diagnose(loss)(params).findings
    assert (told.kind, told.cause) == ("vanishing", "residual_scale")
    assert told.remedies == (remedies.WAKE,)
    assert "where the program multiplies by 1.0e-09" in told.says


def rollout(params, start, rate):
    """The logistic map, a little pushed at each of 60 steps; over a rate of 3.6 it is chaotic."""

    def step(state, _):
        push = jnp.tanh(state @ params["push"])
        state = state + ((rate - 1) * state - rate * state**2 + 0.002 * push)
        return state, jnp.mean(state**2)

    return jnp.mean(jax.lax.scan(step, start, None, 60)[1])


def test_a_gradient_that_grows_over_time_is_found_though_each_step_reaches_the_loss():
    start = 0.2 + 0.6 * jax.random.uniform(jax.random.key(5), (8, 4))
    params = {"push": jax.random.normal(jax.random.key(6), (4, 4)) / 2}
    (told,) = diagnose(rollout)(params, start, 3.8).findings
    assert (told.kind, told.cause) == ("exploding", "recurrence")
    first = jax.grad(rollout, 1)(params, start, 3.8)
    assert jnp.sqrt(jnp.mean(first**2)) > 1e6
    assert told.evidence["factor_a_layer"] > 1.2
    steady = diagnose(rollout)(params, start, 2.5).findings
    assert "exploding" not in {finding.kind for finding in steady}
