"""Networks of blocks: skip connections, normalisations on them, and attention."""

import functools

import jax
import jax.numpy as jnp

from tests.remedies.depth import over_units
from tests.remedies.proof import CLASSES, INPUTS, UNIT, WIDTH, Arm, Case, cross_entropy, normal
from vanishing.diagnosis import remedies

TOKENS, SENTENCES, FEW, CHANNELS = 12, 64, 8, 16

_CLASS = jax.random.randint(jax.random.key(8), (SENTENCES, TOKENS), 0, CLASSES)
_MARKED = jax.random.randint(jax.random.key(9), (SENTENCES,), 0, TOKENS)
_WORDS = jax.random.orthogonal(jax.random.key(10), CHANNELS)[: CLASSES + 1] * CHANNELS**0.5
_MARK = jax.nn.one_hot(_MARKED, TOKENS)[..., None] * _WORDS[None, None, CLASSES]
MARKED_TEXT = _WORDS[_CLASS] + _MARK + 0.3 * normal(12, SENTENCES, TOKENS, CHANNELS)
MARKED_CLASS = _CLASS[jnp.arange(SENTENCES), _MARKED]
TEXT = (_WORDS[_CLASS] + 0.5 * normal(11, SENTENCES, TOKENS, CHANNELS))[:FEW]


@functools.cache
def _around(prenorm):
    """Blocks that are normalised on the skip connection, or inside of their branches."""

    def loss(params, x):
        def block(x, p):
            h = 3 * jnp.tanh((over_units(x) if prenorm else x) @ p["kernel"] + p["bias"])
            return (x + h if prenorm else over_units(x + h)), None

        return cross_entropy(jax.lax.scan(block, x, params["hidden"])[0] @ params["head"])

    return loss


def around(prenorm=False, depth=20):
    def draw(key):
        kernel, biases, head = jax.random.split(key, 3)
        return {
            "hidden": {
                "kernel": normal(kernel, depth, WIDTH, WIDTH, std=0.3 * UNIT),
                "bias": normal(biases, depth, 1, WIDTH),
            },
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    return Arm(_around(prenorm), draw, (INPUTS,))


def _attend(x, p, normalise):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    if normalise:
        q, k = over_units(q) / CHANNELS**0.25, over_units(k) / CHANNELS**0.25
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


def _projections(key, depth, size):
    q, k, v = normal(key, 3, depth, CHANNELS, CHANNELS, std=CHANNELS**-0.5)
    return {"q": size * q, "k": size * k, "v": v}


@functools.cache
def _asked(normalise):
    """The class of the marked word, by what the first one sees of all in a layer of attention."""

    def loss(params, x):
        seen = _attend(x, params["layer"], normalise)[:, 0]
        return cross_entropy(seen @ params["head"], MARKED_CLASS)

    return loss


def asked(size, normalise=False):
    def draw(key):
        layer, head = jax.random.split(key)
        layer = jax.tree.map(lambda leaf: leaf[0], _projections(layer, 1, size))
        return {"layer": layer, "head": normal(head, CHANNELS, CLASSES, std=CHANNELS**-0.5)}

    return Arm(_asked(normalise), draw, (MARKED_TEXT,))


def padded(sees):
    """The class of one word and none else, among words left empty, of which the mask leaves all.

    The one that is left is the last, which is the same in each sentence.
    """

    def loss(params, x, is_word):
        scores = jnp.where(sees(is_word), x @ params["q"] @ (x @ params["k"]).swapaxes(1, 2), -1e9)
        seen = jax.nn.softmax(scores) @ (x @ params["v"])
        return cross_entropy(seen[:, 0] @ params["head"], MARKED_CLASS)

    def draw(key):
        layer, head = jax.random.split(key)
        layer = jax.tree.map(lambda leaf: leaf[0], _projections(layer, 1, CHANNELS**-0.25))
        return {**layer, "head": normal(head, CHANNELS, CLASSES, std=CHANNELS**-0.5)}

    words = MARKED_TEXT.at[:, -1].set(1.0)
    return Arm(loss, draw, (words, jnp.arange(TOKENS) < TOKENS - 1))


def xor(factor):
    """Whether two numbers have one sign, which no linear layer tells, and a branch does."""

    def loss(params, x):
        branch = jax.nn.relu(x @ params["in"]) @ params["out"]
        return cross_entropy(x @ params["linear"] + factor * branch, _SAME_SIGN)

    def draw(key):
        linear, into, out = jax.random.split(key, 3)
        return {
            "linear": normal(linear, 2, 2, std=2**-0.5),
            "in": normal(into, 2, WIDTH),
            "out": normal(out, WIDTH, 2, std=WIDTH**-0.5),
        }

    return Arm(loss, draw, (_POINTS,))


_POINTS = jnp.stack([jnp.tile(jnp.array([1.0, 1.0, -1.0, -1.0]), 8),
                     jnp.tile(jnp.array([1.0, -1.0, 1.0, -1.0]), 8)], -1)  # fmt: skip
_SAME_SIGN = (_POINTS.prod(-1) > 0).astype(int)


@functools.cache
def _stack(skip, norm, branch):
    """The class of each word, after layers of attention."""

    def loss(params, x):
        def block(x, p):
            h = branch * _attend(over_units(x) if norm == "pre" else x, p, False)
            h = x + h if skip else h
            return (over_units(h) if norm == "post" else h), None

        x = jax.lax.scan(block, x, params["layers"])[0]
        return cross_entropy(x @ params["head"], _CLASS[:FEW])

    return loss


def stack(skip, norm="", branch=1.0, depth=6):
    """With scores that are divided by the square root of the width."""

    def draw(key):
        layers, head = jax.random.split(key)
        layers = _projections(layers, depth, CHANNELS**-0.25)
        return {"layers": layers, "head": normal(head, CHANNELS, CLASSES, std=CHANNELS**-0.5)}

    return Arm(_stack(skip, norm, branch), draw, (TEXT,))


CASES = {
    "a normalisation on the skip connection": Case(
        "vanishing", "normalization", around(), {remedies.PRENORM: around(True)}
    ),
    "scores that are too large": Case(
        "saturated", "attention", asked(10.0), {remedies.SCORES: asked(10.0, True)}, steps=300
    ),
    "a mask the wrong way round": Case(
        "saturated",
        "mask",
        padded(jnp.logical_not),
        {remedies.OTHER_WAY: padded(lambda mask: mask)},
        steps=300,
    ),
    "a branch that is multiplied by almost 0": Case(
        "vanishing",
        "residual_scale",
        xor(1e-9),
        {remedies.WAKE: xor(1.0)},
        chance=float(jnp.log(2)),
    ),
    "tokens that attention makes alike": Case(
        "vanishing",
        "same_examples",
        stack(True, "post", branch=5.0, depth=7),
        {remedies.TOKENS: stack(True, "pre", branch=5.0, depth=7)},
    ),
    "attention without skip connections": Case(
        "rank_collapse", "same_examples", stack(False), {remedies.RESIDUAL: stack(True)}
    ),
}
