"""The same loss has the same rows on every supported JAX, whatever its program looks like there."""

import jax
import jax.numpy as jnp
import pytest

from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 24).reshape(6, 4)
PARAMS = {name: jnp.linspace(-1, 1, 16).reshape(4, 4) + i for i, name in enumerate("abc")}


def mlp(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]


def recurrent(p, x):
    return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["a"]), None), x, length=2)[0]


def derivative_forward(p, x):
    value, slope = jax.jvp(lambda x: mlp(p, x), (x,), (jnp.ones_like(x),))
    return value + slope


def derivative_back(p, x):
    return jax.vmap(jax.grad(lambda x: mlp(p, x).sum()))(x)


def second_derivative(p, x):
    """As a network that solves a differential equation has it in its loss."""
    slope = jax.grad(lambda x: mlp(p, x).sum())
    return jax.vmap(jax.grad(lambda x: slope(x).sum()))(x)


def gradient_penalty(p, x):
    slope = jax.grad(lambda x: jnp.sum(recurrent(p, x) @ p["c"]))(x)
    return jnp.sqrt(jnp.sum(slope**2, -1))


def checkpointed_scan(p, x):
    return jax.vjp(jax.checkpoint(lambda x: recurrent(p, x)), x)[0] @ p["c"]


def stacked(p, x):
    return sum(jnp.unstack(jnp.stack([jnp.tanh(x @ p["a"]), x @ p["b"]])))


def attention(p, x):
    query, key, value = ((x @ p[name]).reshape(1, 6, 2, 2) for name in "abc")
    return jax.nn.dot_product_attention(query, key, value)


def activation(function):
    return lambda p, x: function(x @ p["a"]) @ p["b"]


MLP = ["a matmul", "nonlinearity", "b matmul", "nonlinearity", "c matmul"]
STEP = ["a matmul", "nonlinearity"]
LOSSES = {  # loss: the parameter and kind of each row
    derivative_forward: [*["a matmul"] * 2, "nonlinearity", *["b matmul"] * 2, *MLP[3:]],
    derivative_back: [*MLP, "b matmul", "a matmul"],
    second_derivative: [
        *(*MLP, "b matmul", "a matmul", "b matmul", "b matmul"),  # to the gradient, and back again
        *("residual", "a matmul"),
    ],
    gradient_penalty: [*STEP * 2, "c matmul", "a matmul", "a matmul"],
    checkpointed_scan: [*STEP * 2, "c matmul"],
    stacked: [*STEP, "b matmul", "residual"],
    attention: ["a matmul", "b matmul", "c matmul", "nonlinearity"],
    **{
        activation(function): [*STEP, "b matmul"]
        for function in (jax.nn.gelu, jax.nn.softplus, jax.nn.mish, jax.nn.silu, jax.nn.elu)
    },
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_the_rows_of(loss):
    layout = make_plan(lambda p, x: jnp.mean(loss(p, x) ** 2), (PARAMS, X), {}).layout
    sites = [layout.sites[instance.site] for instance in layout.instances]
    assert [f"{site.param} {site.kind}".strip() for site in sites] == LOSSES[loss]
    assert not layout.notes


def test_a_call_without_a_name_of_its_own_gives_none():
    layout = make_plan(lambda p, x: jnp.mean(checkpointed_scan(p, x)), (PARAMS, X), {}).layout
    assert [site.op for site in layout.sites] == ["dot_general", "tanh", "dot_general"]
