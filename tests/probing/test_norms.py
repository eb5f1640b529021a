"""Which normalisation is recognised, in one term and in two."""

import jax
import jax.numpy as jnp
import pytest

from vanishing.probing.plan import make_plan

X = jnp.linspace(-1, 1, 96).reshape(4, 4, 6)
PARAMS = {
    "w": jnp.linspace(-1, 1, 36).reshape(6, 6),
    "g": jnp.ones((1, 1, 6)),
    "b": jnp.ones((1, 1, 6)),
}
RUNNING = jnp.linspace(1, 2, 6)[None, None]


def one_term(axes):
    def norm(h, p):
        mean, var = h.mean(axes, keepdims=True), h.var(axes, keepdims=True)
        return (h - mean) * (jax.lax.rsqrt(var + 1e-5) * p["g"]) + p["b"]

    return norm


def two_terms(axes):
    """As Keras 3 writes all of its norms."""

    def norm(h, p):
        factor = jax.lax.rsqrt(h.var(axes, keepdims=True) + 1e-5) * p["g"]
        return h * factor + (-h.mean(axes, keepdims=True) * factor + p["b"])

    return norm


def affine_last(h, p):
    factor = jax.lax.rsqrt(h.var((0, 1), keepdims=True) + 1e-5)
    return h * factor * p["g"] + (p["b"] - h.mean((0, 1), keepdims=True) * factor * p["g"])


def root_mean_square(h, p):
    return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5) * p["g"]


def group(h, p):
    groups = h.reshape(4, 4, 2, 3)
    var = groups.var((1, 3), keepdims=True)
    return ((groups - groups.mean((1, 3), keepdims=True)) / jnp.sqrt(var + 1e-5)).reshape(4, 4, 6)


def running(h, p):
    return (h - RUNNING) / jnp.sqrt(RUNNING + 1e-5) * p["g"] + p["b"]


def running_in_two_terms(h, p):
    factor = jax.lax.rsqrt(RUNNING + 1e-5) * p["g"]
    return h * factor + (p["b"] - RUNNING * factor)


CASES = {
    "layer norm": (one_term(-1), "layer_norm"),
    "layer norm in two terms": (two_terms(-1), "layer_norm"),
    "the same for few examples": (lambda h, p: two_terms(-1)(h[:1, :1], p), "layer_norm"),
    "layer norm of JAX": (lambda h, p: jax.nn.standardize(h) * p["g"] + p["b"], "layer_norm"),
    "batch norm": (one_term((0, 1)), "batch_norm"),
    "batch norm in two terms": (two_terms((0, 1)), "batch_norm"),
    "batch norm with the affine part last": (affine_last, "batch_norm"),
    "batch norm of running statistics": (running, "batch_norm"),
    "the same in two terms": (running_in_two_terms, "batch_norm"),
    "instance norm": (one_term(1), "instance_norm"),
    "group norm": (group, "group_norm"),
    "RMS norm": (root_mean_square, "rms_norm"),
    "a vector of length 1": (
        lambda h, p: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
        "l2_norm",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_norm_is_one_row_of_its_own_kind(case):
    norm, op = CASES[case]
    loss = lambda p, x: jnp.mean(jax.nn.relu(norm(x @ p["w"], p)) @ p["w"])  # noqa: E731
    sites = make_plan(loss, (PARAMS, X), {}).layout.sites
    assert [site.op for site in sites] == ["dot_general", op, "relu", "dot_general"]
    assert [site.kind for site in sites][1] == "normalization"
    assert len(sites[1].shape) == (4 if op == "group_norm" else 3), "the whole signal"


def test_a_norm_of_data_is_a_row():
    norm, op = CASES["layer norm"]
    loss = lambda p, x: jnp.mean(norm(x, p) @ p["w"])  # noqa: E731
    sites = make_plan(loss, (PARAMS, X), {}).layout.sites
    assert [site.op for site in sites] == [op, "dot_general"]


def test_a_pooled_signal_is_normalised_by_its_own_length():
    def loss(p, x):
        h = (x @ p["w"]).mean(1)
        return jnp.mean(h / jnp.linalg.norm(h, axis=-1, keepdims=True) @ p["w"])

    sites = make_plan(loss, (PARAMS, X), {}).layout.sites
    assert [site.op for site in sites] == ["dot_general", "l2_norm", "dot_general"]


def test_a_product_with_a_predicted_scale_is_no_norm():
    def loss(p, x):
        h = x @ p["w"]
        return jnp.mean(jnp.sqrt(jax.nn.softplus(h @ p["w"])) * h)

    kinds = {site.kind for site in make_plan(loss, (PARAMS, X), {}).layout.sites}
    assert "normalization" not in kinds
