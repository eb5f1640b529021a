"""Networks of numbers that are not finite, or that are beyond what their dtype holds."""

import functools

import jax
import jax.numpy as jnp
import optax

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


@functools.cache
def _two(between, dtype):
    def loss(params, x):
        kernel, head = (params[name].astype(dtype) for name in ("kernel", "head"))
        logits = between(x.astype(dtype) @ kernel) @ head
        return cross_entropy(logits.astype(jnp.float32))

    return loss


def two(
    between, size=1.0, head=1.0, inputs=INPUTS, dtype=jnp.float32, stored=jnp.float32, **options
):
    """Two layers with something between them, and weights of these sizes."""

    def draw(key):
        first, last = jax.random.split(key)
        params = {
            "kernel": normal(first, WIDTH, WIDTH, std=size * UNIT),
            "head": normal(last, WIDTH, CLASSES, std=head * UNIT),
        }
        return jax.tree.map(lambda leaf: leaf.astype(stored), params)

    return Arm(_two(between, dtype), draw, (inputs,), **options)


def logarithm(h):
    return jnp.log(jax.nn.relu(h))


def guarded_logarithm(h):
    return jnp.log(jnp.maximum(jax.nn.relu(h), 1e-6))


def root(h):  # of 0 where it is not taken
    return jnp.where(h > 0, jnp.sqrt(jnp.maximum(h, 0)), 0)


def root_of_where(h):
    return jnp.where(h > 0, jnp.sqrt(jnp.where(h > 0, h, 1.0)), 0)


BROKEN = INPUTS.at[3, 5].set(jnp.nan)
CLEANED = jnp.nan_to_num(BROKEN)


def labelled(labels):
    """Cross-entropy by an index, which is beyond the classes where a label is."""

    def loss(w, x):
        scores = jax.nn.log_softmax(x @ w)
        return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], -1))

    return Arm(loss, lambda key: normal(key, WIDTH, CLASSES, std=UNIT), (INPUTS,))


def masked(hidden):
    """Attention of each example to some of eight words, of which one says what it is."""
    words = jnp.concatenate([INPUTS[:, None], normal(13, EXAMPLES, 7, WIDTH)], 1)
    mask = (jnp.arange(8)[None] < 1 + jnp.arange(EXAMPLES)[:, None] % 8).at[5].set(False)

    def loss(params, x):
        scores = jnp.where(mask, (x @ params["scores"])[..., 0], hidden)
        seen = jnp.einsum("bt,btd->bd", jax.nn.softmax(scores), x)
        return cross_entropy(seen @ params["head"])

    def draw(key):
        scores, head = jax.random.split(key)
        return {
            "scores": normal(scores, WIDTH, 1, std=UNIT),
            "head": normal(head, WIDTH, CLASSES, std=UNIT),
        }

    return Arm(loss, draw, (words,))


@functools.cache
def _faint(dtype, scale):
    """A loss of little weight among others, whose gradient comes back through 16 bits."""

    def score(params, x):
        h = jnp.tanh(x.astype(dtype) @ params["kernel"].astype(dtype))
        return cross_entropy((h @ HEAD.astype(dtype)).astype(f32))

    def loss(params, x):
        return scale * 1e-7 * score(params, x)

    def optimizer(rate):
        return optax.chain(optax.scale(1 / scale), optax.adam(rate))

    return loss, score, optimizer


def faint(dtype, scale=1.0):
    def draw(key):
        return {"kernel": normal(key, WIDTH, WIDTH, std=UNIT)}

    loss, score, optimizer = _faint(dtype, scale)
    return Arm(loss, draw, (INPUTS,), optimizer, score=score)


def in_halves(**options):
    """Trained with steps that are small beside what bfloat16 tells apart."""
    return two(relu, HE, dtype=b16, optimizer=optax.sgd, rates=(3e-4,), **options)


HE, relu, exp = 2**0.5, jax.nn.relu, jnp.exp
f16, b16, f32 = jnp.float16, jnp.bfloat16, jnp.float32
HEAD = normal(4, WIDTH, CLASSES, std=UNIT)  # which is not trained
(IN_FLOAT32,) = remedies.REMEDIES["precision"]
CASES = {
    "a logarithm of 0": Case(
        "non_finite",
        "",
        two(logarithm),
        {remedies.GUARD: two(guarded_logarithm)},
        traced=True,
    ),
    "a root of 0 that is not taken": Case(
        "non_finite",
        "untaken_branch",
        two(root),
        {remedies.DOUBLE_WHERE: two(root_of_where)},
    ),
    "an exponential of weights that are too large": Case(
        "non_finite", "overflow", two(exp, 60.0), {remedies.SMALLER: two(exp)}
    ),
    "an exponential of inputs that are too large": Case(
        "non_finite",
        "overflow",
        two(exp, inputs=60 * INPUTS),
        {remedies.SMALLER: two(exp)},
    ),
    "nan in the data": Case(
        "non_finite",
        "data",
        two(relu, HE, inputs=BROKEN),
        {remedies.CHECK_DATA: two(relu, HE, inputs=CLEANED)},
    ),
    "a label beyond the classes": Case(
        "non_finite",
        "index",
        labelled(LABELS.at[3].set(CLASSES)),
        {remedies.INDEX: labelled(LABELS)},
    ),
    "a row that a mask leaves nothing": Case(
        "non_finite", "mask", masked(-jnp.inf), {remedies.MASK: masked(jnp.finfo(f32).min)}
    ),
    "a product beyond float16": Case(
        "precision",
        "overflow",
        two(relu, 3e4, 1e-4, dtype=f16),
        {
            remedies.WIDER: two(relu, 3e4, 1e-4, dtype=f32),
            remedies.SMALLER: two(relu, dtype=f16),
        },
    ),
    "a gradient under the smallest number of float16": Case(
        "precision",
        "underflow",
        faint(f16),
        {remedies.LOSS_SCALE: faint(f16, 2.0**16), remedies.BFLOAT: faint(b16)},
    ),
    "steps that bfloat16 rounds away": Case(
        "precision",
        "rounding",
        in_halves(stored=b16),
        {IN_FLOAT32: in_halves()},
        steps=6000,
        watched=True,
    ),
    "steps that float32 rounds away": Case(
        "precision",
        "rounding",
        two(relu, HE, rates=(1e-9,)),
        {remedies.RATE_OF_UPDATES: two(relu, HE, rates=(0.1,))},
        watched=True,
    ),
}
