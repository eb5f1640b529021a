"""Networks without a gradient somewhere: unused, stopped, stuck at 0, symmetric, dead."""

import jax
import jax.numpy as jnp

from tests.remedies.depth import over_units, same
from tests.remedies.proof import (
    CLASSES,
    EXAMPLES,
    INPUTS,
    LABELS,
    UNIT,
    WIDTH,
    Arm,
    Case,
    cross_entropy,
    normal,
)
from vanishing.diagnosis import remedies
from vanishing.surrogate import sign, triangle, with_slope

HEAD = normal(4, WIDTH, CLASSES, std=UNIT)  # which is not trained
LEAKY, _, ZERO_BIASES = remedies.REMEDIES["dead_units"]
(SEVERAL,) = remedies.REMEDIES["norm"]


def one_layer(function, sigma=1.0, bias=0.0, kernel=lambda a: a, **options):
    """A layer in front of a last one that stays as it is; of its bias alone nothing is learnt."""

    def draw(key):
        return {
            "kernel": normal(key, WIDTH, WIDTH, std=sigma * UNIT),
            "bias": jnp.full((1, WIDTH), bias),
        }

    def loss(params, x):
        return cross_entropy(function(x @ kernel(params["kernel"]) + params["bias"]) @ HEAD)

    return Arm(loss, draw, (INPUTS,), **options)


def forgotten_layer(used):
    """Logits from a hidden layer, or, as it was forgotten, from the first input alone."""

    def draw(key):
        a, b, c = jax.random.split(key, 3)
        return {"a": lecun(a), "b": normal(b, WIDTH, CLASSES, std=UNIT), "c": normal(c, 1, CLASSES)}

    def loss(params, x):
        logits = x[:, :1] @ params["c"]
        if used:
            logits += jnp.tanh(x @ params["a"]) @ params["b"]
        return cross_entropy(logits)

    return Arm(loss, draw, (INPUTS,))


def adapter(first):
    """A product of two kernels beside a fixed one, as low-rank adapters are."""

    def draw(key):
        return {"a": normal(key, WIDTH, 4, std=first * UNIT), "b": jnp.zeros((4, CLASSES))}

    def loss(params, x):
        return cross_entropy(x @ params["a"] @ params["b"])

    return Arm(loss, draw, (INPUTS,))


def one_unit(function, shift=False):
    """Whether the label is odd, as a number between 0 and 1; perhaps with one that all share."""

    def loss(params, x):
        p = function(x @ params["kernel"])[:, 0]
        p = p + params["shift"] if shift else p
        return jnp.mean((p - LABELS % 2) ** 2)

    def draw(key):
        params = {"kernel": normal(key, WIDTH, 1, std=UNIT)}
        return {**params, "shift": jnp.zeros(1)} if shift else params

    return Arm(loss, draw, (INPUTS,))


def hats(lowest, highest):
    """A sum of hats on -1 to 1, of one number for each example."""

    def loss(w, x):
        centres = jnp.linspace(-1, 1, 16)[None]
        return cross_entropy(
            jnp.maximum(0, 1 - 8 * jnp.abs(x[:, None] - centres)) @ w["hats"] + w["bias"]
        )

    def draw(key):
        return {"hats": normal(key, 16, CLASSES, std=0.25), "bias": jnp.zeros((1, CLASSES))}

    return Arm(
        loss,
        draw,
        (jnp.linspace(lowest, highest, EXAMPLES)[jnp.argsort(LABELS, stable=True).argsort()],),
    )


def below_zero(function):
    """Two numbers under 0, by whether the label is odd, at 1 from their mean."""

    def loss(params, x, targets):
        return jnp.mean((function(x @ params["kernel"] + params["bias"])[:, 0] - targets) ** 2)

    def draw(key):
        return {"kernel": normal(key, WIDTH, 1, std=UNIT), "bias": jnp.zeros((1, 1))}

    return Arm(loss, draw, (INPUTS, -1.0 - 2.0 * (LABELS % 2)))


def bottleneck(function):
    """A layer of a single unit, between two of many."""

    def loss(params, x):
        h = function(x @ params["narrow"]) @ params["wide"] + params["bias"]
        return cross_entropy(jnp.tanh(h) @ params["head"])

    def draw(key):
        narrow, wide, bias, head = jax.random.split(key, 4)
        return {
            "narrow": normal(narrow, WIDTH, 1, std=UNIT),
            "wide": normal(wide, 1, WIDTH),
            "bias": normal(bias, 1, WIDTH),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    return Arm(loss, draw, (INPUTS,))


def one_pass(x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum(0, jnp.mean(x**2, -1, keepdims=True) - mean**2)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def squashed_one_pass(x):
    return jnp.tanh(one_pass(x))


def squashed_two_passes(x):
    return jnp.tanh(over_units(x))


def clipped(x):
    return jnp.clip(x, -1, 1)


def over_its_sum(x):
    return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


# Examples that have nothing in common: a line through them, which is all that a layer of equal
# units sees, tells eight classes apart badly.
SCATTERED, EIGHT = normal(6, EXAMPLES, WIDTH), jnp.arange(EXAMPLES) % 8


def two_layers(draw):
    def loss(params, x):
        h = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
        return cross_entropy(h @ params["head"], EIGHT)

    def drawn(key):
        a, b = jax.random.split(key)
        return {"a": draw(a), "b": draw(b), "head": jnp.full((WIDTH, 8), 0.05)}

    return Arm(loss, drawn, (SCATTERED,))


def probabilities(first):
    def loss(kernel, x):
        return cross_entropy(first(x @ kernel), EIGHT)

    return Arm(loss, lambda key: normal(key, WIDTH, 8, std=UNIT), (SCATTERED,))


def full(key):
    return jnp.full((WIDTH, WIDTH), 0.05)


def lecun(key):
    return normal(key, WIDTH, WIDTH, std=UNIT)


relu, he = jax.nn.relu, 2**0.5
CASES = {
    "a layer that is not used": Case(
        "dead_gradient", "unused", forgotten_layer(False), {remedies.USE: forgotten_layer(True)}
    ),
    "a layer behind stop_gradient": Case(
        "dead_gradient",
        "stopped",
        one_layer(relu, he, kernel=jax.lax.stop_gradient),
        {remedies.UNSTOP: one_layer(relu, he)},
    ),
    "a layer that is rounded": Case(
        "dead_gradient", "discrete", one_layer(jnp.round), {remedies.UNSTOP: one_layer(same)}
    ),
    "a layer of signs": Case(
        "dead_gradient",
        "discrete",
        one_layer(jnp.sign),
        {remedies.SLOPE: one_layer(with_slope(sign, triangle))},
    ),
    "a layer of steps": Case(
        "dead_gradient",
        "flat",
        one_layer(sign),
        {remedies.SLOPE: one_layer(with_slope(sign, triangle))},
    ),
    "a layer that is clipped everywhere": Case(
        "dead_gradient", "flat", one_layer(clipped, 1e5), {remedies.SCALE: one_layer(clipped)}
    ),
    "both factors of an adapter are 0": Case(
        "dead_gradient", "all_factors_zero", adapter(0.0), {remedies.ALL_BUT_ONE: adapter(1.0)}
    ),
    "a softmax over one unit": Case(
        "dead_gradient",
        "one_unit",
        one_unit(jax.nn.softmax),
        {remedies.TWO_UNITS: one_unit(jax.nn.sigmoid)},
        chance=0.25,
    ),
    "a sum of one element": Case(
        "dead_gradient",
        "cancellation",
        one_unit(over_its_sum, shift=True),
        {remedies.UNCANCEL: one_unit(jnp.exp, shift=True)},
        chance=0.25,
    ),
    "inputs beyond every hat": Case(
        "dead_gradient", "no_input", hats(5.0, 9.0), {remedies.REACH: hats(-1.0, 1.0)}
    ),
    "single numbers less their mean": Case(
        "norm", "one_unit", bottleneck(over_units), {SEVERAL: bottleneck(same)}
    ),
    "a variance that is rounding": Case(
        "norm",
        "rounding",
        one_layer(squashed_one_pass, bias=1e4),
        {remedies.TWO_PASS: one_layer(squashed_two_passes, bias=1e4)},
    ),
    "constant kernels": Case(
        "symmetry",
        "constant_weights",
        two_layers(full),
        {remedies.SYMMETRY: two_layers(lecun)},
        chance=float(jnp.log(8)),
    ),
    "a softmax of a softmax": Case(
        "double_softmax",
        "softmax_twice",
        probabilities(jax.nn.softmax),
        {remedies.ONE_SOFTMAX: probabilities(same)},
        chance=float(jnp.log(8)),
    ),
    "a ReLU in front of targets under 0": Case(
        "saturated",
        "out_of_range",
        below_zero(relu),
        {remedies.NO_ACTIVATION: below_zero(same)},
        chance=1.0,
    ),
    "biases that turn every unit off": Case(
        "dead_units",
        "",
        one_layer(relu, he, -6.0),
        {LEAKY: one_layer(jax.nn.leaky_relu, he, -6.0), ZERO_BIASES: one_layer(relu, he)},
        steps=600,
    ),
}
