"""Which rows a loss gets, by example; their numbers are checked in test_transform.py."""

import jax
import jax.numpy as jnp
import pytest

from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(4, 6)
W = jnp.linspace(-1, 1, 36).reshape(6, 6)
PARAMS = {"w": W, "b": jnp.ones(6), "scale": jnp.ones(6), "v": W + 1}


def norm(h, p):
    mean, var = h.mean(1, keepdims=True), h.var(1, keepdims=True)
    return (h - mean) * jax.lax.rsqrt(var + 1e-6) * p["scale"][None] + p["b"][None]


CASES = {
    "a bias belongs to its product": (lambda x, p: x @ p["w"] + p["b"][None], ["dot_general+add"]),
    "through a transposed weight": (lambda x, p: x @ p["w"].T, ["dot_general"]),
    "an embedding": (lambda x, p: p["w"][jnp.argmax(x, 1)], ["gather"]),
    "relu": (lambda x, p: jax.nn.relu(x @ p["w"]), ["dot_general", "relu"]),
    "by jnp.maximum": (lambda x, p: jnp.maximum(x @ p["w"], 0), ["dot_general", "relu"]),
    "gelu, which is many operations": (
        lambda x, p: jax.nn.gelu(x @ p["w"], approximate=True),
        ["dot_general", "gelu"],
    ),
    "silu": (lambda x, p: jax.nn.silu(x @ p["w"]), ["dot_general", "silu"]),
    "elu": (lambda x, p: jax.nn.elu(x @ p["w"]), ["dot_general", "elu"]),
    "a loss is no activation": (
        lambda x, p: jnp.square(jnp.tanh(x @ p["w"]) - x),
        ["dot_general", "tanh"],
    ),
    "layer norm with its scale and shift": (
        lambda x, p: norm(x @ p["w"], p),
        ["dot_general", "layer_norm"],
    ),
    "softmax": (lambda x, p: jax.nn.softmax(x @ p["w"]) @ p["v"], ["dot_general", "softmax"] * 1),
    "attention": (
        lambda x, p: jax.nn.softmax((x @ p["w"]) @ (x @ p["v"]).T) @ x,
        ["dot_general", "dot_general", "attention"],
    ),
    "a bias after a transpose, as of a mapped layer": (
        lambda x, p: jax.vmap(lambda x: p["w"] @ x + p["b"])(x),
        ["dot_general+add"],
    ),
    "a skip connection": (
        lambda x, p: (lambda h: h + jnp.tanh(h @ p["v"]))(x @ p["w"]),
        ["dot_general", "dot_general", "tanh", "add"],
    ),
    "two products of one cell": (lambda x, p: x @ p["w"] + x @ p["v"], ["dot_general+add"]),
    "a multiple of a signal is no residual sum": (
        lambda x, p: (lambda h: h + h * jnp.tanh(h @ p["v"]))(x @ p["w"]),
        ["dot_general", "dot_general", "tanh"],
    ),
    "a sum of three": (
        lambda x, p: (lambda h: h + jnp.tanh(h @ p["v"]) + jnp.sin(h @ p["w"]))(x @ p["w"]),
        ["dot_general", "dot_general", "tanh", "dot_general", "sin", "add"],
    ),
    "what is left of a gate": (
        lambda x, p: (lambda gate: gate * x + (1 - gate) * (x @ p["v"]))(
            jax.nn.sigmoid(x @ p["w"])
        ),
        ["dot_general", "sigmoid", "dot_general", "add"],
    ),
    "a gate": (
        lambda x, p: jax.nn.sigmoid(x @ p["w"]) * (x @ p["v"]),
        ["dot_general", "sigmoid", "dot_general"],
    ),
}


def sites_of(loss):
    """The sites of a loss; nothing is run."""
    return make_plan(loss, (PARAMS, X), {}).layout.sites


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of(case):
    network, ops = CASES[case]
    sites = sites_of(lambda p, x: jnp.mean(network(x, p)))
    site_ops = [site.op for site in sites]
    assert site_ops[: len(ops)] == ops, sites
    assert len(site_ops) == len(ops) + (case == "softmax")


def test_cross_entropy_adds_no_rows():
    def loss(p, x):
        return -jnp.mean(jax.nn.log_softmax(x @ p["w"])[:, 0])

    assert [site.op for site in sites_of(loss)] == ["dot_general"]


def test_kinds_of_rows():
    def loss(p, x):
        h = norm(x @ p["w"], p)
        return jnp.mean(h + jnp.tanh(h @ p["v"]))

    kinds = [site.kind for site in sites_of(loss)]
    expected = "matmul, normalization, matmul, nonlinearity, residual"
    assert kinds == expected.split(", ")
