"""Networks that an optimiser's steps, or one bad step, keep from learning."""

import functools

import jax
import jax.numpy as jnp
import optax

from tests.remedies.depth import plain
from tests.remedies.numbers import HE, relu, two
from tests.remedies.proof import (
    CLASSES,
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

SCALE = 13.0


def spoiled(count=5):
    """A gradient that is not finite at one step, as that of one bad batch."""

    def update(updates, state, params=None):
        factor = jnp.where(state == count, jnp.inf, 1.0)
        return jax.tree.map(lambda u: u * factor, updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), int), update)


def after_a_bad_batch(rate):
    return optax.chain(spoiled(), momentum(rate))


def skipped(rate):
    return optax.chain(spoiled(), optax.apply_if_finite(momentum(rate), 3))


def silent(rate):
    return optax.chain(momentum(rate), optax.scale_by_schedule(lambda step: 0.0))


def adam(epsilon):
    return lambda rate: optax.adam(rate, eps=epsilon)


_usual, _larger = adam(1e-8), adam(1e-4)


def apart(scale, own=1.0):
    """One kernel is drawn small, and what it makes is multiplied by as much.

    One rate is tried, at which the others move as they should; the kernel may have its own.
    """

    def loss(params, x):
        h = relu(scale * (x @ params["a"]))
        return cross_entropy(relu(h @ params["b"]) @ params["head"])

    def draw(key):
        a, b, head = jax.random.split(key, 3)
        return {
            "a": normal(a, WIDTH, WIDTH, std=HE * UNIT / scale),
            "b": normal(b, WIDTH, WIDTH, std=HE * UNIT),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    def optimizer(rate):
        mine = optax.masked(optax.scale(own), {"a": True, "b": False, "head": False})
        return optax.chain(momentum(rate), mine)

    return Arm(loss, draw, (INPUTS,), optimizer, rates=(0.1,))


def of_halves(optimizer):
    return two(relu, HE, dtype=jnp.float16, stored=jnp.float16, optimizer=optimizer)


def of_rates(*rates):
    return two(relu, HE, rates=rates)


def added_up(skip=None):
    """Steps of four batches each, of which the sixth is bad."""

    def optimizer(rate):
        options = {"should_skip_update_fn": skip} if skip else {}
        steps = optax.MultiSteps(momentum(4 * rate), 4, **options)
        return optax.chain(spoiled(), steps.gradient_transformation())

    return optimizer


@functools.cache
def _beside(share):
    def classify(params, x):
        return cross_entropy(relu(x @ params["kernel"]) @ params["head"])

    def loss(params, x):
        return share * classify(params, x) + jnp.mean((x @ params["back"] - x) ** 2)

    return loss, classify


def beside(share, optimizer):
    """A classifier whose loss is a share of another one's, which has its own parameters."""

    def draw(key):
        kernel, head, back = jax.random.split(key, 3)
        return {
            "kernel": normal(kernel, WIDTH, WIDTH, std=HE * UNIT),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
            "back": normal(back, WIDTH, WIDTH, std=UNIT),
        }

    loss, classify = _beside(share)
    return Arm(loss, draw, (INPUTS,), optimizer, score=classify)


def four_layers(rate):
    return plain(relu, HE, 4, optimizer=optax.adam, rates=(rate,))


CASES = {
    "steps that replace the weights": Case(
        "update_ratio",
        "learning_rate",
        of_rates(1e4),
        {remedies.RATE_OF_UPDATES: of_rates(0.1)},
        watched=True,
    ),
    "no step at all": Case(
        "update_ratio",
        "frozen",
        two(relu, HE, optimizer=silent),
        {remedies.STANDS_STILL: two(relu, HE)},
        watched=True,
    ),
    "an epsilon that is 0 in float16": Case(
        "update_ratio",
        "epsilon",
        of_halves(_usual),
        {remedies.OPTIMIZER: of_halves(_larger)},
        watched=True,
    ),
    "a kernel out of proportion, drawn as others are": Case(
        "update_ratio",
        "one_parameter",
        apart(SCALE),
        {remedies.ONE_RATE: apart(1.0)},
        watched=True,
    ),
    "a kernel out of proportion, with its own rate": Case(
        "update_ratio",
        "one_parameter",
        apart(SCALE),
        {remedies.ONE_RATE: apart(SCALE, SCALE**-2)},
        watched=True,
    ),
    "one bad batch": Case(
        "non_finite",
        "parameter",
        two(relu, HE, optimizer=after_a_bad_batch),
        {remedies.CHECK_STEP: two(relu, HE, optimizer=skipped)},
        after=100,
    ),
    "one bad batch of four whose gradients are added up": Case(
        "non_finite",
        "parameter",
        two(relu, HE, optimizer=added_up()),
        {remedies.SKIP: two(relu, HE, optimizer=added_up(optax.skip_not_finite))},
        watched=True,
        after=6,
    ),
    "a small share of the loss": Case(
        "update_ratio",
        "epsilon",
        beside(1e-14, optax.adam),
        {remedies.LOUDER: beside(1.0, optax.adam), remedies.NO_EPSILON: beside(1e-14, optax.lion)},
        watched=True,
    ),
    "steps that turn units off": Case(
        "dead_units", "", four_layers(3.0), {remedies.RATE: four_layers(0.01)}, after=100
    ),
}
