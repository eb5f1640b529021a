import jax
import jax.numpy as jnp
import pytest

from vanishing.probing.plan import make_plan
from vanishing.probing.silent import silent

X = jax.random.normal(jax.random.key(0), (8, 4))
A, B, C = jax.random.normal(jax.random.key(1), (3, 4, 4)) / 2
ZERO = jnp.zeros((4, 4))


def cost(h):
    return jnp.mean((h - 1) ** 2)


def found(loss, params):
    grads = jax.grad(loss)(params)
    names = sorted(params)
    silent_ones = silent(make_plan(loss, (params,), {}), jax.tree.leaves(grads))
    assert all(not grads[names[each.leaf]].any() for each in silent_ones)
    return {names[each.leaf]: each for each in silent_ones}


def adapter(p):
    return cost(X @ C + X @ p["a"] @ p["b"])


def gates_in_gates(p):
    inner = p["inner"] * jnp.tanh(X @ p["a"])
    return cost(X + p["outer"] * (X @ p["b"] + inner))


@pytest.mark.parametrize(
    ("loss", "params"),
    [
        (adapter, {"a": A, "b": ZERO}),
        (gates_in_gates, {"a": A, "b": B, "inner": jnp.zeros(()), "outer": jnp.zeros(())}),
    ],
)
def test_what_waits_for_a_zero_that_learns_is_not_silent(loss, params):
    grads = jax.grad(loss)(params)
    assert any(not grad.any() for grad in grads.values())
    assert found(loss, params) == {}


@jax.custom_vjp
def without_slope(x):
    return 2 * x


without_slope.defvjp(lambda x: (2 * x, None), lambda _, g: (0 * g,))


@pytest.mark.parametrize(
    ("loss", "name", "matters"),
    [
        (lambda p: cost(X @ p["a"]) + 0 * p["b"].sum(), "b", False),
        (lambda p: cost(X @ p["a"] + jnp.clip(p["b"] + 9, -1, 1)[:1]), "b", False),
        (lambda p: cost(X @ p["a"] + jnp.where(p["b"] > 9, p["b"], 1)[:1]), "b", False),
        (lambda p: cost(X @ p["a"] @ without_slope(p["b"])), "b", True),
        (lambda p: cost(X @ (p["a"] + jnp.round(9 * p["b"]))), "b", True),
        (lambda p: jax.lax.cond(p["b"].sum() > 99, lambda: p["b"].sum(), lambda: cost(X @ p["a"])),
         "b", False),
    ],
)  # fmt: skip
def test_what_stays_without_a_gradient_is_found_and_whether_the_loss_depends_on_it(
    loss, name, matters
):
    params = {"a": A, "b": B}
    told = found(loss, params)
    assert set(told) == {name}
    pushed = params | {name: 1.2 * params[name]}
    assert told[name].matters == matters == bool(loss(pushed) != loss(params))
    assert told[name].at.startswith("tests/probing/test_silent.py:")


def test_both_factors_of_0_are_silent():
    assert set(found(adapter, {"a": ZERO, "b": ZERO})) == {"a", "b"}
