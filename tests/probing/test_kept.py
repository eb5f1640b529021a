import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import probe
from vanishing.probing import kept

P = jnp.array([0.5, -1.0, 2.0])


def counting():
    """A loss, and the list to which it adds an entry whenever it is traced."""
    traces = []

    def loss(p, x=1.0, scale=2, square=True):
        traces.append(1)
        y = jnp.tanh(p * x)
        return scale * jnp.sum(y**2 if square else y)

    return loss, traces


def calls(loss, *argument_lists, **options):
    for args, kwargs in argument_lists:
        probed = probe(loss, **options)(*args, **kwargs)
        value, grads = jax.value_and_grad(loss)(*args, **kwargs)
        np.testing.assert_allclose(probed.value, value, rtol=1e-6)
        np.testing.assert_allclose(probed.grads, grads, rtol=1e-6)


@pytest.mark.parametrize(
    ("argument_lists", "times"),
    [
        ([((P,), {})] * 3, 1),
        ([((P + i, float(i)), {}) for i in range(3)], 1),
        ([((P, P), {"scale": i}) for i in range(3)], 1),
        ([((jnp.ones(n),), {}) for n in (2, 3, 2)], 2),
        ([((P,), {"square": True}), ((P,), {"square": False})] * 2, None),
    ],
    ids=["same", "floats", "counts", "shapes", "flags"],
)
def test_a_loss_is_traced_once_for_each_kind_of_arguments(argument_lists, times):
    """Beside plain JAX, which traces at every call."""
    loss, traces = counting()
    calls(loss, *argument_lists)
    count = len(traces) - len(argument_lists)
    if times is None:  # tried once with the flag traced, then with each of its values
        times = count
        calls(loss, *argument_lists)
        assert len(traces) == count + 2 * len(argument_lists)
    assert count == times


def test_options_and_settings_have_programs_of_their_own():
    loss, traces = counting()
    for options in ({}, {"level": "op"}, {"summaries": ("rms",)}, {"params": False}, {}):
        probe(loss, **options)(P)
    assert len(traces) == 4
    with jax.default_matmul_precision("highest"):
        probe(loss)(P)
    assert len(traces) == 5


def test_a_loss_whose_variables_are_bound_anew_is_traced_anew():
    batch, factor = jnp.ones(3), 2.0

    def loss(p):
        return factor * jnp.sum(jnp.tanh(p * batch) ** 2)

    for size in (1.0, 2.0):
        batch = size * jnp.ones(3)
        calls(loss, ((P,), {}))
    factor = 3.0
    calls(loss, ((P,), {}), ((P,), {}))


def test_it_is_gone_with_its_loss():
    before = set(kept._of_loss)
    loss, _ = counting()
    probe(loss)(P)
    assert set(kept._of_loss) - before == {id(loss)}
    del loss
    gc.collect()
    assert set(kept._of_loss) == before


class Callable:
    __slots__ = ()

    def __call__(self, p):
        return jnp.sum(p**2)


@pytest.mark.parametrize(
    "loss", [Callable(), functools.partial(lambda a, p: jnp.sum(a * p**2), 2.0), jax.jit(jnp.sum)]
)
def test_any_callable_may_be_a_loss(loss):
    calls(loss, ((P,), {}), ((P,), {}))


def test_nothing_is_kept_of_a_call_inside_of_a_transformation():
    loss, _ = counting()
    before = set(kept._of_loss)
    jax.jit(probe(loss))(P)
    jax.vmap(probe(loss))(jnp.stack([P, P]))
    jax.jit(lambda x: probe(lambda p: jnp.sum(p * x))(P))(P)
    assert set(kept._of_loss) == before


def test_arguments_without_a_hash_are_taken_and_not_kept():
    def loss(p, names):
        return jnp.sum(p**2) * len(names.keys)

    class Names:
        __hash__ = None
        keys = ("a", "b")

    before = set(kept._of_loss)
    assert probe(loss)(P, Names()).value == 2 * jnp.sum(P**2)
    assert set(kept._of_loss) == before
