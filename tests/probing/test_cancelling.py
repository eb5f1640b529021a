import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing.probing import cancelling
from vanishing.probing.plan import make_plan

W = jax.random.normal(jax.random.key(0), (4, 4))
X = jax.random.normal(jax.random.key(1), (8, 4))
PARAMS = {"a": W, "b": W.T / 2}


def plan_of(loss, params, x=X):
    return make_plan(loss, (params, x), {})


def found(loss, params, x=X):
    """The lines and the names of the parameters of each sum that cancels."""
    names = sorted(params)
    sums = cancelling.cancelled(plan_of(loss, params, x))
    return {(each.at, tuple(names[i] for i in each.leaves)) for each in sums}


def line_of(function, after=0):
    first = inspect.unwrap(function).__code__.co_firstlineno
    return f"tests/probing/test_cancelling.py:{first + after}"


def cost(h):
    return jnp.mean(h**2)


def in_one(p, x):
    h = x @ p["a"]
    return cost(h - h + x @ p["b"])


def computed_twice(p, x):
    once, again = jnp.tanh(x @ p["a"]), jnp.tanh(x @ p["a"])
    return cost(once - again + x @ p["b"])


def three_ways(p, x):
    h = x @ p["a"]
    return cost(h + h - 2 * h + x @ p["b"])


@pytest.mark.parametrize("loss", [in_one, computed_twice, three_ways])
def test_a_signal_less_itself_is_found_and_leaves_no_gradient(loss):
    grads = jax.grad(loss)(PARAMS, X)
    assert jnp.abs(grads["a"]).max() <= 1e-6 * jnp.abs(grads["b"]).max()
    ((at, names),) = found(loss, PARAMS)
    assert names == ("a",)
    assert at.startswith("tests/probing/test_cancelling.py:")


def over_itself(p, x):
    return cost((p["w"] / p["w"]) * (x @ p["b"]))


@pytest.mark.parametrize("w", [jnp.full((1, 1), 3.0), jnp.arange(1.0, 5.0)[None]])
def test_a_parameter_over_itself_is_found_at_its_line(w):
    params = {"b": PARAMS["b"], "w": w}
    assert found(over_itself, params) == {(line_of(over_itself, 1), ("w",))}
    np.testing.assert_allclose(jax.grad(over_itself)(params, X)["w"], 0, atol=1e-6)


def test_a_scalar_parameter_whose_two_terms_cancel_is_found():
    loss = lambda p, x: jnp.tanh(p["s"]) - jnp.sin(p["s"]) + cost(x @ p["b"])  # noqa: E731
    params = {"b": W, "s": jnp.float32(0)}  # both have the slope 1 at 0
    assert [names for _, names in found(loss, params)] == [("s",)]
    assert found(loss, params | {"s": jnp.float32(1)}) == set()


def test_weights_over_their_own_sum_are_found_where_there_is_one():
    def loss(p, x):
        weights = jnp.exp(x @ p["w"])
        return jnp.sum(weights / weights.sum(axis=0, keepdims=True) * (x @ p["b"]) ** 2)

    params = {"b": W[:, :1], "w": W[:, 1:2]}
    assert {names for _, names in found(loss, params, X[:1])} == {("w",)}
    assert found(loss, params, X) == set()


HEALTHY = {
    "two layers": lambda p, x: cost(jnp.tanh(x @ p["a"]) @ p["b"]),
    "a residual block": lambda p, x: cost(x + jnp.tanh(x @ p["a"]) @ p["b"] + x @ p["a"]),
    "a difference": lambda p, x: cost(x @ p["a"] - x @ p["b"]),
    "a shared layer": lambda p, x: cost(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["a"]) @ p["b"]),
    "a decay": lambda p, x: cost(jnp.tanh(x @ p["a"]) @ p["b"]) + 1e-2 * cost(p["a"]),
    "attention": lambda p, x: cost(jax.nn.softmax(x @ p["a"] @ x.T) @ x @ p["b"]),
}


def normalized(p, x):
    h = x @ p["a"]
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    return -jnp.mean(jax.nn.log_softmax(h @ p["b"])[:, 0])


HEALTHY["normalized"] = normalized


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_has_none(name, dtype):
    loss = HEALTHY[name]
    params, x = jax.tree.map(lambda value: value.astype(dtype), (PARAMS, X))
    assert all(jnp.any(grad != 0) for grad in jax.tree.leaves(jax.grad(loss)(params, x)))
    assert found(loss, params, x) == set()


def test_what_no_gradient_comes_back_from_does_not_cancel():
    def loss(p, x):
        h = x @ p["a"]
        return 0.0 * (cost(h) + cost(jnp.tanh(h))) + cost(x @ p["b"])

    assert not jnp.any(jax.grad(loss)(PARAMS, X)["a"])
    assert found(loss, PARAMS) == set()


def test_a_tanh_at_its_lower_end_is_saturated_and_does_not_cancel():
    loss = lambda p, x: jnp.tanh(p["s"]) + cost(x @ p["b"])  # noqa: E731
    params = {"b": W, "s": jnp.float32(-8)}
    assert jax.grad(loss)(params, X)["s"] > 0
    assert found(loss, params | {"s": jnp.float32(8)}) == set()
    assert found(loss, params) == set()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_in_a_narrow_dtype_what_rounding_leaves_is_found(dtype, x64):
    params = {"b": W, "w": jnp.arange(1.0, 5, dtype=jnp.float32)[None] / 3}
    exact = jax.grad(over_itself)(*jax.tree.map(np.float64, (params, X)))
    np.testing.assert_allclose(exact["w"], 0, atol=1e-12)
    params, x = jax.tree.map(lambda value: value.astype(dtype), (params, X))
    assert jnp.any(jax.grad(over_itself)(params, x)["w"] != 0)
    assert found(over_itself, params, x) == {(line_of(over_itself, 1), ("w",))}


def test_a_fifth_of_a_gradient_is_more_than_the_rounding_of_bfloat16():
    loss = lambda p, x: jnp.tanh(p["s"]) - 0.8 * jnp.sin(p["s"]) + cost(x @ p["b"])  # noqa: E731
    params = {"b": W.astype(jnp.bfloat16), "s": jnp.bfloat16(0)}
    x = X.astype(jnp.bfloat16)
    np.testing.assert_allclose(np.float32(jax.grad(loss)(params, x)["s"]), 0.2, rtol=0.02)
    assert found(loss, params, x) == set()


def test_the_program_of_the_gradient_is_that_of_jax(x64):
    params, x = jax.tree.map(np.float64, (PARAMS, X))
    plan = plan_of(HEALTHY["attention"], params, x)
    frame = cancelling.backward(plan).frame
    grads = cancelling.replay.evaluate(frame, [*plan.params, *plan.others], frame.outputs)
    expected = jax.tree.leaves(jax.grad(HEALTHY["attention"])(params, x))
    for grad, true in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, true, rtol=1e-10)


def test_a_tanh_at_its_end_is_no_sum_of_two_ways():
    loss = lambda p, x: cost(jnp.tanh(x @ p["a"] - 100))  # noqa: E731
    assert found(loss, PARAMS) == set()
