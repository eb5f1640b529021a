"""Reported faults of scales and ranges, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# How new an item is to a user, by the product of two outputs of a network.


class Novelty(eqx.Module):
    users: jax.Array
    items: jax.Array
    first: jax.Array
    second: jax.Array
    unit: bool = eqx.field(static=True)

    def __init__(self, unit, key):
        keys = jax.random.split(key, 4)
        self.users = jax.random.normal(keys[0], (40, 96))
        self.items = jax.random.normal(keys[1], (50, 96))
        self.first = jax.random.normal(keys[2], (128, 96)) * (2 / 96) ** 0.5
        self.second = jax.random.normal(keys[3], (96, 128)) * (2 / 128) ** 0.5
        self.unit = unit

    def __call__(self, user, item):
        def embed(x):
            x = self.second @ jax.nn.gelu(self.first @ x)
            return x / jnp.linalg.norm(x) if self.unit else x

        product = embed(self.users[user]) @ embed(self.items[item])
        return jax.nn.sigmoid(product)  # fault: raw_product


def _novelty(unit):
    keys = jax.random.split(jax.random.key(1), 3)
    params, static = eqx.partition(Novelty(unit, jax.random.key(0)), eqx.is_inexact_array)
    user = jax.random.randint(keys[0], (64,), 0, 40)
    item = jax.random.randint(keys[1], (64,), 0, 50)
    share = jax.random.uniform(keys[2], (64,))

    def loss(params, user, item, share):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(user, item) - share) ** 2)

    return loss, params, (user, item, share)


def raw_product():
    """The product of 96 components goes into the sigmoid as it is."""
    return _novelty(False)


def raw_product_fixed():
    """Both sides have length 1."""
    return _novelty(True)


# A layer norm in float16 whose epsilon is none there.


class Norm16(nn.Module):
    statistics: object

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        h = x.astype(self.statistics)
        h = h - h.mean(-1, keepdims=True)
        variance = jnp.square(h).mean(-1, keepdims=True)
        h = h * jax.lax.rsqrt(variance + 1e-12)  # fault: epsilon_float16
        return h.astype(x.dtype) * scale.astype(x.dtype)


class Frames(nn.Module):
    statistics: object

    @nn.compact
    def __call__(self, x, mask):
        x = x.astype(jnp.float16)
        for i in range(2):
            h = nn.Dense(32, use_bias=False, dtype=jnp.float16, name=f"layer{i}")(x)
            x = nn.gelu(Norm16(self.statistics, name=f"norm{i}")(h))
        x = jnp.where(mask[..., None], x.astype(jnp.float32), 0.0)
        return nn.Dense(7, name="words")(x.sum(1) / mask.sum(1, keepdims=True))


def _frames(statistics):
    model = Frames(statistics)
    mask = jnp.arange(20) < jax.random.randint(jax.random.key(1), (16, 1), 8, 20)
    x = jnp.where(mask[..., None], jax.random.normal(jax.random.key(2), (16, 20, 24)), 0.0)
    params = model.init(jax.random.key(0), x, mask)["params"]

    def loss(params, x, mask, y):
        logits = model.apply({"params": params}, x, mask)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, mask, jnp.arange(16) % 7)


def epsilon_float16():
    """An epsilon of 1e-12 is 0 in float16."""
    return _frames(jnp.float16)  # fault: epsilon_float16


def epsilon_float16_fixed():
    """The statistics and the root in float32."""
    return _frames(jnp.float32)


# A healthy one: a linear model that begins at zero.


def linear_from_zero():
    """Notes out of a spectrum by a linear map of zeros."""
    params = {"notes": jnp.zeros((60, 24))}
    x = jnp.abs(jax.random.normal(jax.random.key(1), (64, 60)))
    y = (jax.random.uniform(jax.random.key(2), (64, 24)) < 0.3).astype(jnp.float32)

    def loss(params, x, y):
        return jnp.mean((jnp.log1p(x) @ params["notes"] - y) ** 2)

    return loss, params, (x, y)


REPORTS = {
    "raw_product": Report(
        source="Stevenn9981/PPAC#2",
        symptom="the personal part of the recommender learns next to nothing",
        truth="the product of two unbounded embeddings of 96 components is far beyond the range of "
        "the sigmoid, whose slope is then about 0. At the sigmoid. Scale both to length 1.",
        kinds=("saturated", "vanishing"),
        make=raw_product,
        fixed=raw_product_fixed,
        shows=lambda value, grads: value > 0.2,
        remedy=r"normali|scale|length|unit|divide|init|smaller|sqrt|temperature|logits",
    ),
    "epsilon_float16": Report(
        source="deepspeedai/DeepSpeed#581",
        symptom="nan in half precision as soon as a batch has padding of zeros",
        truth="1e-12 is 0 in float16: a padded frame has variance 0, the root of it no inverse, "
        "and 0 * inf is nan. At the epsilon. The statistics in float32.",
        kinds=("non_finite", "precision", "norm"),
        make=epsilon_float16,
        fixed=epsilon_float16_fixed,
        shows=lambda value, grads: not np.isfinite(norm(grads)),
        remedy=r"eps|float32|precision|larger|rsqrt|root|sqrt|where|max|zero",
    ),
    "linear_from_zero": Report(
        source="jthickstun/pytorch_musicnet#4",
        symptom="the only layer's weights begin at zero: can that learn?",
        truth="nothing is broken: a single linear layer has no units to tell apart.",
        kinds=(),
        make=linear_from_zero,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
