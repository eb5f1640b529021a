"""Recurrent networks, which are asked about the first of many inputs."""

import functools

import jax
import jax.numpy as jnp

from tests.remedies.depth import clipped, same
from tests.remedies.proof import (
    CLASSES,
    EXAMPLES,
    INPUTS,
    UNIT,
    WIDTH,
    Arm,
    Case,
    cross_entropy,
    momentum,
    normal,
)
from vanishing.diagnosis import remedies


def asked_about_the_first(steps, later=0.0):
    """The inputs at the first of some steps, and then noise of this size."""
    return jnp.concatenate([INPUTS[None], later * normal(7, steps - 1, EXAMPLES, WIDTH)])


@functools.cache
def _elman(activation):
    def loss(params, xs):
        def step(h, x):
            return activation(x @ params["in"] + h @ params["hidden"]), None

        h = jax.lax.scan(step, jnp.zeros((EXAMPLES, WIDTH)), xs)[0]
        return cross_entropy(h @ params["head"])

    return loss


def elman(activation, size, steps, later=0.0, optimizer=momentum):
    """With a recurrent matrix that is orthogonal, times a size."""

    def draw(key):
        into, hidden, head = jax.random.split(key, 3)
        return {
            "in": normal(into, WIDTH, WIDTH, std=UNIT),
            "hidden": size * jax.random.orthogonal(hidden, WIDTH),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    inputs = asked_about_the_first(steps, later)
    return Arm(_elman(activation), draw, (inputs,), optimizer)


@functools.cache
def _gated(activation):
    """An LSTM, whose cell is bounded by an activation on the way in and on the way out."""

    def loss(params, xs):
        def step(carry, x):
            h, c = carry
            gates = x @ params["in"] + h @ params["hidden"] + params["bias"]
            put, forget, new, out = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(put) * activation(new)
            h = jax.nn.sigmoid(out) * activation(c)
            return (h, c), None

        zero = jnp.zeros((EXAMPLES, WIDTH))
        h = jax.lax.scan(step, (zero, zero), xs)[0][0]
        return cross_entropy(h @ params["head"])

    return loss


def lstm(activation, steps, forget=1.0, size=1.0):
    def draw(key):
        into, hidden, head = jax.random.split(key, 3)
        return {
            "in": normal(into, WIDTH, 4 * WIDTH, std=UNIT),
            "hidden": normal(hidden, WIDTH, 4 * WIDTH, std=size * UNIT),
            "bias": jnp.repeat(jnp.array([[0.0, forget, 0.0, 0.0]]), WIDTH, 1),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    return Arm(_gated(activation), draw, (asked_about_the_first(steps),))


def _settling(params, x):
    """Of a network whose layers share their weights: what the first returns, and the logits."""
    first = x @ params["in"]

    def step(h, _):
        return jnp.tanh(h @ params["hidden"] + params["bias"]), None

    return first, jax.lax.scan(step, first, None, 12)[0] @ params["head"]


def _settling_and_aside(params, x):
    first, logits = _settling(params, x)
    return cross_entropy(logits) + jnp.mean((first @ params["back"] - x) ** 2)


def _settling_alone(params, x):
    return cross_entropy(_settling(params, x)[1])


def settling(size, bias=0.0, aside=False):
    """Perhaps with a second loss of what the first layer returns, which keeps its gradient."""

    def draw(key):
        into, hidden, head, back, biases = jax.random.split(key, 5)
        params = {
            "in": normal(into, WIDTH, WIDTH, std=UNIT),
            "hidden": size * jax.random.orthogonal(hidden, WIDTH),
            "bias": normal(biases, 1, WIDTH, std=bias),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }
        return {**params, "back": normal(back, WIDTH, WIDTH, std=UNIT)} if aside else params

    loss = _settling_and_aside if aside else _settling_alone
    return Arm(loss, draw, (INPUTS,), score=_settling_alone)


STEPS = 12
_LSTM = lstm(jnp.tanh, STEPS)
_noisy = functools.partial(elman, jnp.tanh, steps=30, later=0.3)
CASES = {
    "a recurrence that grows": Case(
        "exploding",
        "recurrence",
        elman(same, 2.0, STEPS),
        {
            remedies.ORTHOGONAL: elman(same, 1.0, STEPS),
            remedies.CLIP: elman(same, 2.0, STEPS, optimizer=clipped),
            remedies.GATE: _LSTM,
        },
        remains=(remedies.CLIP,),
    ),
    "a recurrence that overflows": Case(
        "exploding",
        "growth",
        elman(same, 1e4, STEPS),
        {
            remedies.ORTHOGONAL: elman(same, 1.0, STEPS),
            remedies.GATE: _LSTM,
            remedies.SMALLER: elman(same, 0.9, STEPS),
        },
    ),
    "a recurrence that forgets": Case(
        "vanishing",
        "recurrence",
        elman(jnp.tanh, 0.3, STEPS),
        {
            remedies.GATE: _LSTM,
            remedies.ORTHOGONAL: elman(jnp.tanh, 1.0, STEPS),
        },
    ),
    "gates that forget": Case(
        "vanishing",
        "recurrence",
        lstm(jnp.tanh, STEPS, forget=-2.0),
        {remedies.FORGET: lstm(jnp.tanh, STEPS, forget=1.0)},
    ),
    "a cell that grows": Case(
        "exploding",
        "recurrence",
        lstm(same, STEPS, size=4.0),
        {remedies.BOUNDED: lstm(jnp.tanh, STEPS, size=4.0)},
    ),
    "a cell that grows until its gates saturate": Case(
        "saturated",
        "initial_scale",
        lstm(same, STEPS, size=4.0),
        {remedies.BOUNDED: lstm(jnp.tanh, STEPS, size=4.0)},
    ),
    "a recurrence that saturates": Case(
        "saturated",
        "initial_scale",
        _noisy(50.0),
        {remedies.ORTHOGONAL: _noisy(1.0)},
        steps=40,
    ),
    "a recurrence that forgets its inputs beside its biases": Case(
        "rank_collapse",
        "same_examples",
        settling(0.3, bias=0.3),
        {remedies.ORTHOGONAL: settling(1.0, bias=0.3)},
    ),
    "a state that is lost, with a loss aside": Case(
        "forward_drift",
        "recurrence",
        settling(0.3, aside=True),
        {remedies.ORTHOGONAL: settling(1.0, aside=True)},
    ),
}
