import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from tests.facts.measuring import assert_as_stated, assert_plain, assert_table
from vanishing.facts import STOPS, stops, stops_like
from vanishing.facts.stops import LARGE, STEPS

WEIGHT = 0.1 * jax.random.normal(jax.random.key(0), (64, 64))
SIGNS = jnp.sign(jax.random.normal(jax.random.key(1), (64, 64)))
DECADES = np.arange(-24, 3.01, 0.05)  # LAMB's own numbers underflow under 1e-25


def made(name):
    *part, name = name.split(".")
    make = getattr(optax.contrib if part else optax, name)
    options = {"weight_decay": 0.0} if name in ("lion", "lamb", "adamw") else {}
    return make(1e-3, **options)


def moved(optimizer, size):
    """How far the first steps of a gradient whose elements have this size move a parameter."""

    def step(carry, _):
        state, total = carry
        update, state = optimizer.update(size * SIGNS, state, WEIGHT)
        return (state, total + update), None

    start = (optimizer.init(WEIGHT), jnp.zeros_like(WEIGHT))
    (_, total), _ = jax.lax.scan(step, start, None, STEPS)
    return jnp.sqrt(jnp.mean(total**2))


def half(name):
    sizes = jnp.asarray([*10.0**DECADES, LARGE])
    *each, full = np.asarray(jax.jit(jax.vmap(functools.partial(moved, made(name))))(sizes))
    reached = np.flatnonzero(np.asarray(each) >= full / 2)
    if reached[0] == 0:
        return 0.0
    size = 10 ** DECADES[reached[0]]
    return math.inf if size > LARGE / 10 else size


def test_the_table_is_plain_data():
    assert_table(STOPS, lambda row: row.optimizer)
    assert_plain(stops)
    halves = [row.half for row in STOPS]
    assert halves == sorted(halves, reverse=True)


def test_adam_stops_at_its_epsilon_and_lion_does_not():
    """Of a constant gradient g each step of Adam is lr g / (g + epsilon)."""
    for size in (1e-6, 1e-8, 1e-11):
        share = moved(made("adam"), size) / moved(made("adam"), LARGE)
        assert share == pytest.approx(size / (size + 1e-8), rel=0.01)
        assert moved(made("lion"), size) == pytest.approx(STEPS * 1e-3, rel=1e-4)
        assert moved(made("sgd"), size) == pytest.approx(STEPS * 1e-3 * size, rel=1e-4)


def test_optimisers_are_known_by_where_they_stop():
    assert "adamw" in stops_like(1e-8)
    assert stops_like(math.inf) == ("sgd", "radam")
    assert stops_like(1e-5) == ()


@pytest.mark.slow
def test_every_optimiser_stops_as_stated():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The sizes that are tried lie 12 % apart.
        assert_as_stated(STOPS, lambda row: [(row.half, half(row.optimizer))], rtol=0.15)


@pytest.mark.slow
def test_muon_passes_stacked_kernels_to_adam():
    """Which moves an element of a stack as Nadam does, and of one matrix far less."""
    stack = jnp.stack([WEIGHT, WEIGHT])
    rms = {}
    for name, weight in (("matrix", WEIGHT), ("stack", stack)):
        optimizer = optax.contrib.muon(1e-3)
        update, _ = optimizer.update(jnp.cos(weight), optimizer.init(weight), weight)
        rms[name] = update
    nadam = optax.nadam(1e-3)
    expected, _ = nadam.update(jnp.cos(stack), nadam.init(stack), stack)
    np.testing.assert_allclose(rms["stack"], expected, rtol=0.01)
    assert float(jnp.std(rms["matrix"])) < 0.5 * float(jnp.abs(rms["stack"]).mean())
