"""Plain networks that are deep: their weights, their activation, and what else keeps a gradient."""

import functools

import jax
import jax.numpy as jnp
import optax

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
from vanishing import theory
from vanishing.diagnosis import remedies


def over_units(x):
    """Layer normalisation, without a gain."""
    return _standardised(x, -1)


def over_batch(x):
    """Batch normalisation, as it is in training."""
    return _standardised(x, 0)


def tiny_epsilon(x):
    """Layer normalisation of what may be small."""
    return _standardised(x, -1, 1e-12)


def clipped(rate):
    return optax.chain(optax.clip_by_global_norm(1.0), momentum(rate))


def _standardised(x, axis, epsilon=1e-5):
    deviation = x - x.mean(axis, keepdims=True)
    return deviation / jnp.sqrt(jnp.mean(deviation**2, axis, keepdims=True) + epsilon)


def same(x):
    return x


@functools.cache
def _plain(activation, normalise, skip, branch):
    def loss(params, x):
        def layer(x, p):
            h = branch * activation(normalise(x @ p["kernel"] + p["bias"]))
            return (skip * x + h if skip else h), None

        return cross_entropy(jax.lax.scan(layer, x, params["hidden"])[0] @ params["head"])

    return loss


def plain(
    activation,
    sigma,
    depth=12,
    skip=0.0,
    branch=1.0,
    normalise=same,
    optimizer=momentum,
    head=1.0,
    bias=0.0,
    inputs=INPUTS,
    **options,
):
    """Layers of equal width, with weights of the standard deviation sigma / sqrt(width)."""

    def draw(key):
        hidden, last, biases = jax.random.split(key, 3)
        kernels = normal(hidden, depth, WIDTH, WIDTH, std=sigma / WIDTH**0.5)
        biases = normal(biases, depth, 1, WIDTH, std=bias)
        return {
            "hidden": {"kernel": kernels, "bias": biases},
            "head": normal(last, WIDTH, CLASSES, std=head / WIDTH**0.5),
        }

    loss = _plain(activation, normalise, skip, branch)
    return Arm(loss, draw, (inputs,), optimizer, **options)


@functools.cache
def _aside(normalise):
    """A deep network whose first layer has a second loss, which keeps its gradient alive."""

    def forward(params, x):
        first = x @ params["in"]

        def layer(x, kernel):
            return jnp.tanh(normalise(x @ kernel)), None

        return first, jax.lax.scan(layer, first, params["hidden"])[0] @ params["head"]

    def loss(params, x):
        first, logits = forward(params, x)
        return cross_entropy(logits) + jnp.mean((first @ params["back"] - x) ** 2)

    def score(params, x):
        return cross_entropy(forward(params, x)[1])

    return loss, score


def aside(sigma, normalise=same):
    def draw(key):
        into, hidden, head, back = jax.random.split(key, 4)
        return {
            "in": normal(into, WIDTH, WIDTH, std=UNIT),
            "hidden": normal(hidden, 12, WIDTH, WIDTH, std=sigma * UNIT),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
            "back": normal(back, WIDTH, WIDTH, std=UNIT),
        }

    loss, score = _aside(normalise)
    return Arm(loss, draw, (INPUTS,), score=score)


# A number whose size says what it belongs to, and whose sign, which is all that a saturated unit
# keeps of it, does not.
NUMBER = jnp.linspace(-1, 1, EXAMPLES)[:, None]
FAR_FROM_0 = (3.999 * jnp.abs(NUMBER[:, 0])).astype(int)


def _of_a_number(params, x):
    h = jnp.tanh(x @ params["first"])
    return cross_entropy(
        jnp.tanh(h @ params["second"] + params["bias"]) @ params["head"], FAR_FROM_0
    )


def of_a_number(inputs):
    def draw(key):
        first, second, bias, head = jax.random.split(key, 4)
        return {
            "first": normal(first, 1, WIDTH),
            "second": normal(second, WIDTH, WIDTH, std=UNIT),
            "bias": normal(bias, 1, WIDTH),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    return Arm(_of_a_number, draw, (inputs,))


sigmoid, tanh, relu, HE = jax.nn.sigmoid, jnp.tanh, jax.nn.relu, 2**0.5
(_CRITICAL,) = theory.critical("tanh", sigma_b=0.2)
_ordered = functools.partial(plain, tanh, depth=20, bias=0.2)
_folded = functools.partial(plain, jnp.abs, 1.0, depth=30, normalise=over_batch)
CASES = {
    "sigmoids": Case(
        "vanishing",
        "activation",
        plain(sigmoid, 1.0),
        {
            remedies.ACTIVATION: plain(relu, HE),
            remedies.RESIDUAL: plain(sigmoid, 1.0, skip=1.0),
            remedies.OVER_BATCH: plain(sigmoid, 1.0, normalise=over_batch),
        },
    ),
    "tanh, drawn too small": Case(
        "vanishing",
        "initial_scale",
        plain(tanh, 0.4),
        {
            remedies.SCALE: plain(tanh, 1.0),
            remedies.RESIDUAL: plain(tanh, 0.4, skip=1.0),
            remedies.NORMALIZE: plain(tanh, 0.4, normalise=over_units),
        },
    ),
    "ReLU, drawn too small": Case(
        "vanishing", "initial_scale", plain(relu, 0.6), {remedies.SCALE: plain(relu, HE)}
    ),
    "ReLU, drawn too large": Case(
        "exploding",
        "initial_scale",
        plain(relu, 4.0),
        {
            remedies.SCALE: plain(relu, HE),
            remedies.NORMALIZE: plain(relu, 4.0, normalise=over_units),
        },
    ),
    "ReLU, drawn so large that it overflows": Case(
        "exploding", "growth", plain(relu, 1e5), {remedies.SMALLER: plain(relu, HE)}
    ),
    "ReLU, drawn so small that it is 0": Case(
        "dead_gradient", "flat", plain(relu, 1e-5), {remedies.SCALE: plain(relu, HE)}
    ),
    "tanh, drawn so large that it saturates": Case(
        "saturated",
        "initial_scale",
        plain(tanh, 30.0, depth=20),
        {
            remedies.SCALE: plain(tanh, 1.0, depth=20),
            remedies.NORMALIZE: plain(tanh, 30.0, depth=20, normalise=over_units),
            remedies.ACTIVATION: plain(relu, HE, depth=20),
        },
    ),
    "tanh that forgets its inputs beside its biases": Case(
        "rank_collapse",
        "same_examples",
        _ordered(0.4),
        {
            remedies.SCALE: _ordered(_CRITICAL.sigma_w),
            remedies.RESIDUAL: _ordered(0.4, skip=1.0),
            remedies.OVER_BATCH: _ordered(0.4, normalise=over_batch),
        },
    ),
    "blocks whose sum grows": Case(
        "exploding",
        "residual_scale",
        plain(relu, 2.0, skip=1.0),
        {
            remedies.BRANCHES: plain(relu, 2.0, skip=1.0, branch=12**-0.5),
            remedies.SCALE: plain(relu, HE, skip=1.0),
            remedies.NORMALIZE: plain(relu, 2.0, skip=1.0, normalise=over_units),
            remedies.CLIP: plain(relu, 2.0, skip=1.0, optimizer=clipped),
        },
        remains=(remedies.CLIP,),
    ),
    "skip connections that a small number multiplies": Case(
        "vanishing",
        "residual_scale",
        plain(tanh, 0.5, depth=20, skip=0.2),
        {remedies.UNSCALED: plain(tanh, 0.5, depth=20, skip=1.0)},
    ),
    "skip connections that a number over 1 multiplies": Case(
        "exploding",
        "residual_scale",
        plain(relu, 1.0, skip=4.0),
        {remedies.UNSCALED: plain(relu, 1.0, skip=1.0)},
    ),
    "batch normalisation of thirty layers": Case(
        "exploding", "normalization", _folded(), {remedies.RESIDUAL: _folded(skip=1.0)}
    ),
    "a signal that is lost, with a loss aside": Case(
        "forward_drift",
        "initial_scale",
        aside(0.3),
        {remedies.SCALE: aside(1.0), remedies.NORMALIZE: aside(0.3, over_units)},
    ),
    "a last layer that is drawn too large": Case(
        "exploding",
        "head_scale",
        plain(tanh, 1.0, depth=3, head=3e4),
        {remedies.HEAD: plain(tanh, 1.0, depth=3, head=1.0)},
    ),
    "inputs in another unit": Case(
        "saturated",
        "input_scale",
        of_a_number(1000 * NUMBER),
        {remedies.INPUTS: of_a_number(NUMBER / NUMBER.std())},
        steps=600,
    ),
    "an epsilon larger than the variance": Case(
        "norm",
        "epsilon",
        plain(same, 1e-3, depth=14, normalise=over_units),
        {remedies.EPSILON: plain(same, 1e-3, depth=14, normalise=tiny_epsilon)},
    ),
}
# Networks whose weights are to be multiplied by a factor that the remedy names.
FACTORS = {
    "tanh, drawn too small": (remedies.SCALE, lambda factor: plain(tanh, 0.4 * factor)),
    "ReLU, drawn too small": (remedies.SCALE, lambda factor: plain(relu, 0.6 * factor)),
    "ReLU, drawn too large": (remedies.SCALE, lambda factor: plain(relu, 4.0 * factor)),
    "tanh, drawn so large that it saturates": (
        remedies.SCALE,
        lambda factor: plain(tanh, 30.0 * factor, depth=20),
    ),
    "a signal that is lost, with a loss aside": (
        remedies.SCALE,
        lambda factor: aside(0.3 * factor),
    ),
    "a last layer that is drawn too large": (
        remedies.HEAD,
        lambda factor: plain(tanh, 1.0, depth=3, head=3e4 * factor),
    ),
}
