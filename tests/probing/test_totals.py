import jax
import jax.numpy as jnp
import optax
import pytest

from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(6, 4)
P = {"a": jnp.eye(4), "b": jnp.eye(4), "s": jnp.zeros(()), "pair": jnp.zeros(2)}


def ops(loss, p=P, *args):
    return [selected.site.op for selected in make_plan(loss, (p, *args), {}).selected]


def cost(p, x=X):
    return jnp.mean((jnp.tanh(x @ p["a"]) @ p["b"]) ** 2)


def l2(p):
    return sum(jnp.sum(q**2) for q in jax.tree.leaves(p))


def of_two_tasks(p):
    costs = jnp.stack([cost(p), cost({"a": p["b"], "b": p["a"]})])
    return jnp.sum(jnp.exp(-p["pair"]) * costs + p["pair"])


def in_a_loop(p):
    step = lambda total, x: (total + cost(p, x) + 0.1 * l2(p), None)  # noqa: E731
    return jax.lax.scan(step, 0.0, X.reshape(2, 3, 4))[0]


LOSSES = {
    "l1": lambda p: cost(p) + 0.1 * jnp.sum(jnp.abs(p["a"])),
    "l2": lambda p: cost(p) + 0.1 * l2(p),
    "l2 of optax": lambda p: cost(p) + 0.1 * optax.tree.norm(p),
    "l2 by a product": lambda p: cost(p) + jnp.vdot(p["a"], p["a"]),
    "orthogonality": lambda p: cost(p) + jnp.sum((p["a"].T @ p["a"] - jnp.eye(4)) ** 2),
    "uncertainty": lambda p: jnp.exp(-p["s"]) * cost(p) + p["s"],
    "uncertainties": of_two_tasks,
    "in a checkpoint": jax.checkpoint(lambda p: cost(p) + 0.1 * l2(p)),
    "in a loop": in_a_loop,
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_done_to_costs_adds_no_row(name):
    calls = 2 if name == "uncertainties" else 1
    assert ops(LOSSES[name]) == ["dot_general", "tanh", "dot_general"] * calls


@pytest.mark.parametrize("penalty", [l2, lambda p: jnp.exp(-p["s"])])
def test_a_penalty_whose_strength_is_an_argument_adds_no_row(penalty):
    expected = ["dot_general", "tanh", "dot_general"]
    assert ops(lambda p, strength: cost(p) + strength * penalty(p), P, 0.1) == expected
    assert ops(lambda p, strength: strength * penalty(p) * cost(p), P, 0.1) == expected


def test_a_single_number_that_the_network_goes_on_with_has_its_row():
    def gated(p):
        h = jnp.tanh(X @ p["a"])
        return cost(p, h * jax.nn.sigmoid(p["s"] * jnp.mean(h)))

    assert ops(gated)[:3] == ["dot_general", "tanh", "mul"]


def test_a_network_of_single_numbers_has_rows():
    def neurons(p, x):
        return (p["v"] * jnp.tanh(p["w"] * x)) ** 2

    assert ops(neurons, {"w": 0.5, "v": 0.5}, 1.0) == ["mul", "mul"]

    def one_output(p):
        h = jnp.tanh(p["a"] @ X[0])
        return (p["pair"][0] + p["a"][0] @ h) ** 2 + 0.1 * l2(p)

    assert ops(one_output)[-1].startswith("dot_general")
