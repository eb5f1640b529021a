"""Mutable references: what is written to one, a later read depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ref import addupdate

from tests.helpers import slow
from vanishing.probing import probe

W = {"w": jnp.linspace(-1, 1, 16).reshape(4, 4), "v": jnp.linspace(0.2, 0.9, 16).reshape(4, 4)}
X = jnp.linspace(-0.7, 1, 8).reshape(2, 4)


def overwritten(p, x):
    ref = jax.new_ref(x)
    ref[...] = jnp.tanh(ref[...] @ p["w"])
    return jnp.sum(jax.freeze(ref) @ p["v"])


def in_a_jitted_function(p, x):
    ref = jax.new_ref(x)

    @jax.jit
    def step(w):
        ref[...] = jnp.tanh(ref[...] @ w)

    step(p["w"])
    step(p["v"])
    return jnp.sum(ref[...])


def in_a_loop(p, x):
    ref = jax.new_ref(x)

    def step(i, _):
        ref[...] = jnp.tanh(ref[...] @ p["w"])

    jax.lax.fori_loop(0, 2, step, None)
    return jnp.sum(ref[...])


def in_one_branch(p, x):
    ref = jax.new_ref(x)

    def step():
        ref[...] = jnp.tanh(ref[...] @ p["w"])

    jax.lax.cond(x[0, 0] < 0, step, lambda: None)
    return jnp.sum(ref[...] @ p["v"])


def row_by_row(p, x):
    ref = jax.new_ref(jnp.stack([x, x, x]))

    def step(i, _):
        ref[i + 1] = jnp.tanh(ref[i] @ p["w"])

    jax.lax.fori_loop(0, 2, step, None)
    return jnp.sum(ref[...])


def added_to(p, x):
    ref = jax.new_ref(jnp.zeros_like(x))
    addupdate(ref, ..., jnp.tanh(x @ p["w"]))
    return jnp.sum(ref[...] @ p["v"])


FORMS = {  # loss: for each row, the rows that its signal comes from
    overwritten: [(), (0,), (1,)],
    in_a_jitted_function: [(), (0,), (1,), (2,)],
    in_a_loop: [(), (0,), (1,), (2,)],
    in_one_branch: [(), (0,), (1,)],
    row_by_row: [(), (0,), (1,), (2,)],
    added_to: [(), (0,), (1,)],
}


@pytest.mark.parametrize("loss", FORMS, ids=lambda loss: loss.__name__)
def test_what_is_written_a_later_read_depends_on(loss):
    probed = probe(loss)(W, X)
    value, grads = jax.value_and_grad(loss)(W, X)
    np.testing.assert_allclose(probed.value, value, rtol=1e-6)
    for gradient, plain in zip(jax.tree.leaves(probed.grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(gradient, plain, rtol=1e-5)
    assert [row.parents for row in probed.trace.layout.instances] == FORMS[loss]
    labels = {"w", "v"} if np.any(grads["v"]) else {"w"}
    assert {place.label for place in probed.trace.layout.leaves if place.reach == "used"} == labels


def test_every_operation_has_a_row_and_a_reference_has_none():
    trace = probe(overwritten, level="op")(W, X).trace
    assert [site.op for site in trace.sites] == [
        *("dot_general", "tanh", "freeze", "dot_general", "reduce_sum")
    ]


def test_what_is_overwritten_unread_reaches_no_loss():
    def loss(p, x):
        ref = jax.new_ref(jnp.tanh(x @ p["w"]))
        ref[...] = x @ p["v"]
        return jnp.sum(ref[...])

    assert probe(loss)(W, X).trace.names == ("v",)


@pytest.mark.parametrize("size", [(2, 4), *slow(((),))])
def test_references_of_the_caller_are_written_to_as_by_plain_jax(size):
    ref = jax.new_ref(jnp.zeros(size))

    def loss(p, x, *references):
        for own in references or (ref,):
            own[...] = jax.lax.stop_gradient(jnp.broadcast_to(x[0, 0] * 2, size))
        return jnp.sum(jnp.tanh(x @ p["w"]))

    for args in ((W, X), (W, X + 1, ref)):
        for run in (probe(loss), jax.jit(probe(loss))):
            ref[...] = jnp.zeros(size)
            assert len(run(*args).trace) == 2
            np.testing.assert_array_equal(ref[...], np.full(size, args[1][0, 0] * 2))
