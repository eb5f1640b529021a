import functools
import gc
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import probe
from vanishing.probing import kept

P = jnp.array([0.5, -1.0, 2.0])


def counting():
    """A loss, and a function that returns how often it has been called."""
    traces = io.StringIO()

    def loss(p, x=1.0, scale=2, square=True):
        traces.write(".")
        y = jnp.tanh(p * x)
        return scale * jnp.sum(y**2 if square else y)

    return loss, lambda: len(traces.getvalue())


def calls(loss, *argument_lists, **options):
    for args, kwargs in argument_lists:
        probed = probe(loss, **options)(*args, **kwargs)
        value, grads = jax.value_and_grad(loss)(*args, **kwargs)
        np.testing.assert_allclose(probed.value, value, rtol=1e-6)
        np.testing.assert_allclose(probed.grads, grads, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("argument_lists", "times"),
    [
        ([((P,), {})] * 3, 1),
        ([((P + i, float(i)), {}) for i in range(3)], 1),
        ([((P, P), {"scale": i}) for i in range(3)], 1),
        ([((jnp.ones(n),), {}) for n in (2, 3, 2)], 2),
        ([((P,), {"square": True}), ((P,), {"square": False})] * 2, 2),
    ],
    ids=["same", "floats", "counts", "shapes", "flags"],
)
def test_a_loss_is_traced_once_for_each_kind_of_arguments(argument_lists, times):
    """Beside plain JAX, which traces at every call."""
    loss, count = counting()
    calls(loss, *argument_lists)
    assert count() - len(argument_lists) == times


def test_options_and_settings_have_programs_of_their_own():
    loss, count = counting()
    for options in ({}, {"level": "op"}, {"summaries": ("rms",)}, {"params": False}, {}):
        probe(loss, **options)(P)
    assert count() == 4
    with jax.default_matmul_precision("highest"):
        probe(loss)(P)
    assert count() == 5


def test_a_loss_whose_variables_are_bound_anew_is_traced_anew():
    batch, factor = jnp.ones(3), 2.0

    def loss(p):
        return factor * jnp.sum(jnp.tanh(p * batch) ** 2)

    for size in (1.0, 2.0):
        batch = size * jnp.ones(3)
        calls(loss, ((P,), {}))
    factor = 3.0
    calls(loss, ((P,), {}), ((P,), {}))


def test_filters_of_one_meaning_and_text_share_programs_or_have_their_own():
    def loss(p, mode):
        count.write(".")
        return jnp.sum(p**2) * (2 if mode == "double" else 1)

    count = io.StringIO()
    for mode, factor in ((0.5, 1), ("double", 2), (1.5, 1), ("single", 1), ("double", 2)):
        probed = probe(loss, where=lambda site: site.kind != "sum")(P, mode)
        assert probed.value == factor * jnp.sum(P**2)
    assert len(count.getvalue()) == 3


def test_few_programs_are_kept(monkeypatch):
    monkeypatch.setattr(kept, "_of_loss", {})
    monkeypatch.setattr(kept, "PER_LOSS", 2)
    monkeypatch.setattr(kept, "IN_ALL", 3)
    losses = [lambda p, mode: jnp.sum(p) * len(mode), lambda p, mode: jnp.sum(p)]
    for loss in losses:
        for mode in ("a", "b", "c"):
            probe(loss, params=False)(P, mode)
    assert list(kept._of_loss) == [id(losses[1])]
    assert len(kept._of_loss[id(losses[1])].entries) == 2


class Model:
    """Its loss and it refer to each other."""

    def __init__(self):
        self.factor = 2.0
        self.loss = lambda p: self.factor * jnp.sum(p**2)


def recursive():
    def loss(p, depth=0):
        return jnp.sum(p**2) if depth == 2 else loss(p, depth + 1)

    return loss


def in_a_list():
    losses = []
    losses.append(lambda p: len(losses) * jnp.sum(p**2))
    return losses[0]


def returned():
    def loss(p):
        return jnp.sum(p**2), lambda: loss

    return loss


@pytest.mark.parametrize(
    "make", [lambda: counting()[0], lambda: Model().loss, recursive, in_a_list, returned]
)
def test_it_is_gone_with_its_loss(make):
    gc.collect()  # what earlier tests left
    before = set(kept._of_loss)
    loss = make()
    probe(loss, has_aux=make is returned)(P)
    assert set(kept._of_loss) - before <= {id(loss)}
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


class Names:
    __hash__ = None

    def __init__(self, *keys):
        self.keys = keys


def test_an_object_among_the_arguments_is_seen_to_change():
    def loss(p, names):
        count.write(".")
        return jnp.sum(p**2) * len(names.keys)

    count, names = io.StringIO(), Names("a", "b")
    for keys in (("a", "b"), ("a", "b"), ("a",), ("a", "b")):
        names.keys = keys
        assert probe(loss)(P, names).value == len(keys) * jnp.sum(P**2)
    assert len(count.getvalue()) == 2
