"""Reported faults of normalisation and of half precision around it, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# A segmenter of scans in float16, whose group norm squares before it averages.


class GroupNorm16(nn.Module):
    upcast: bool
    groups: int = 4

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        shift = self.param("shift", nn.initializers.zeros, (x.shape[-1],))
        h = x.astype(jnp.float32) if self.upcast else x
        h = h.reshape(*h.shape[:3], self.groups, -1)
        h = h - h.mean((1, 2, 4), keepdims=True)
        # The sum is taken in the type of the input, as a kernel without a wide accumulator does.
        square = jnp.sum(h * h, (1, 2, 4), dtype=h.dtype, keepdims=True)  # fault: groupnorm_float16
        count = h.shape[1] * h.shape[2] * h.shape[4]
        h = h * jax.lax.rsqrt(square / count + 1e-5)
        return (h.reshape(x.shape) * scale + shift).astype(x.dtype)


class Segmenter(nn.Module):
    upcast: bool

    @nn.compact
    def __call__(self, x):
        for width in (16, 16):
            x = nn.Conv(width, (3, 3), use_bias=False, dtype=jnp.float16)(x)
            x = nn.gelu(GroupNorm16(self.upcast)(x))
        return nn.Conv(4, (1, 1), dtype=jnp.float16)(x).astype(jnp.float32)


def _segmenter(upcast):
    model = Segmenter(upcast)
    grey = 255 * jax.random.uniform(jax.random.key(1), (2, 16, 16, 1))
    x = (2 * grey).astype(jnp.float16)
    y = (grey[..., 0] // 64).astype(int)
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, y)


def groupnorm_float16():
    """Squares of activations of some hundreds overflow to inf in float16."""
    return _segmenter(False)


def groupnorm_float16_fixed():
    """The statistics are taken in float32."""
    return _segmenter(True)


# A sentence encoder in float16 with rows that are padding only.


class Attention(eqx.Module):
    qkv: jax.Array
    out: jax.Array

    def __init__(self, key, width):
        a, b = jax.random.split(key)
        self.qkv = jax.random.normal(a, (3, width, width)) / width**0.5
        self.out = jax.random.normal(b, (width, width)) / width**0.5

    def __call__(self, x, mask, lowest):
        q, k, v = (x @ w for w in self.qkv.astype(x.dtype))
        scores = q @ jnp.swapaxes(k, -1, -2) / x.shape[-1] ** 0.5
        bias = (lowest * (1.0 - mask)).astype(x.dtype)  # fault: mask_float16
        scores = scores + bias[:, None, :]
        return jax.nn.softmax(scores, -1) @ v @ self.out.astype(x.dtype)


class Encoder(eqx.Module):
    embed: jax.Array
    attention: list[Attention]
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = jax.random.normal(keys[0], (40, 32))
        self.attention = [Attention(k, 32) for k in keys[1:3]]
        self.head = eqx.nn.Linear(32, 6, key=keys[3])


def _encoder(lowest):
    params, static = eqx.partition(Encoder(jax.random.key(0)), eqx.is_inexact_array)
    lengths = jnp.array([9, 12, 0, 5, 12, 7, 0, 3])  # the batch is filled up with empty rows
    mask = jnp.arange(12) < lengths[:, None]
    tokens = jnp.where(mask, jax.random.randint(jax.random.key(1), (8, 12), 1, 40), 0)
    labels = jnp.arange(8) % 6

    def loss(params, tokens, mask, labels):
        model = eqx.combine(params, static)
        x = model.embed[tokens].astype(jnp.float16)
        for layer in model.attention:
            x = x + layer(x, mask, lowest)
        x = jnp.sum(x.astype(jnp.float32) * mask[..., None], 1)
        x = x / jnp.maximum(mask.sum(-1, keepdims=True), 1)
        each = optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model.head)(x), labels)
        return jnp.sum(each * mask.any(-1)) / mask.any(-1).sum()

    return loss, params, (tokens, mask, labels)


def mask_float16():
    """The mask's -1e9 is -inf in float16."""
    return _encoder(-1e9)  # fault: mask_float16


def mask_float16_fixed():
    """The mask is the lowest number of the type."""
    return _encoder(float(jnp.finfo(jnp.float16).min))


# A layer norm written by hand with the wrong power.


class HandLayerNorm(nn.Module):
    power: float

    @nn.compact
    def __call__(self, x):
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        beta = self.param("beta", nn.initializers.zeros, (x.shape[-1],))
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        std = (variance + 1e-6) ** self.power  # fault: layer_norm_power
        return (x - mean) / std * gamma + beta


class Relations(nn.Module):
    power: float

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(60, 48, embedding_init=nn.initializers.normal(0.3), name="embed")(tokens)
        for i in range(4):
            h = HandLayerNorm(self.power, name=f"norm{i}")(x)
            h = nn.Dense(96, name=f"up{i}")(h)
            x = x + nn.Dense(48, name=f"down{i}")(nn.gelu(h))
        return nn.Dense(9, name="links")(HandLayerNorm(self.power, name="norm_last")(x))


def _relations(power):
    model = Relations(power)
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 0, 60)
    params = model.init(jax.random.key(0), tokens)["params"]

    def loss(params, tokens):
        logits = model.apply({"params": params}, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens % 9).mean()

    return loss, params, (tokens,)


def layer_norm_power():
    """The variance is squared where its root was meant."""
    return _relations(2)


def layer_norm_power_fixed():
    """Divided by the root of the variance."""
    return _relations(0.5)


# A few-shot learner that adapts in evaluation mode.


class FewShot(nn.Module):
    evaluate: bool

    @nn.compact
    def __call__(self, x):
        small = nn.initializers.normal(0.03)
        for _ in range(8):
            x = nn.Conv(24, (3, 3), kernel_init=small, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=self.evaluate)(x)  # fault: batch_norm_unlearned
            x = nn.relu(x)
        return nn.Dense(5)(x.mean((1, 2)))


def _few_shot(evaluate):
    model = FewShot(evaluate)
    x = jax.random.normal(jax.random.key(1), (25, 8, 8, 3))
    y = jnp.arange(25) % 5
    x = x + jax.random.normal(jax.random.key(2), (5, 1, 1, 3))[y]
    variables = model.init(jax.random.key(0), x)

    def loss(params, stats, x, y):
        variables = {"params": params, "batch_stats": stats}
        logits, _ = model.apply(variables, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, variables["params"], (variables["batch_stats"], x, y)


def batch_norm_unlearned():
    """Running statistics that were never updated: mean 0, variance 1."""
    return _few_shot(True)


def batch_norm_unlearned_fixed():
    """The statistics of the batch, as the authors of the example do."""
    return _few_shot(False)


# A healthy one: biases that the norm behind them takes away.


class Discriminator(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 16, (4, 4), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (4, 4), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.third = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.norm_third = nnx.BatchNorm(32, rngs=rngs)
        self.last = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.leaky_relu(self.first(x), 0.2)
        x = nnx.leaky_relu(self.norm(self.second(x)), 0.2)
        x = nnx.leaky_relu(self.norm_third(self.third(x)), 0.2)
        return self.last(x.mean((1, 2)))[:, 0]


def bias_before_norm():
    """A patch discriminator with biases in front of its batch norms."""
    model = Discriminator(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(1), (16, 16, 16, 3))
    real = (jnp.arange(16) % 2).astype(jnp.float32)

    def loss(params, rest, x, real):
        logits = nnx.merge(graph, params, rest, copy=True)(x + real[:, None, None, None] / 2)
        return optax.sigmoid_binary_cross_entropy(logits, real).mean()

    return loss, params, (rest, x, real)


REPORTS = {
    "groupnorm_float16": Report(
        source="neuroneural/brainchop-cli#56 (also nntrainer/nntrainer#3935)",
        symptom="group norm in half precision gives zeros, the segmentation is garbage",
        truth="the activations of the first layer are hundreds, their squares and the sum of them "
        "are over 65504: inf in float16, so that the norm divides by inf, gives 0, and no gradient "
        "comes through. At the line of the square. Take the statistics in float32.",
        kinds=("norm", "non_finite", "precision", "dead_gradient", "vanishing"),
        make=groupnorm_float16,
        fixed=groupnorm_float16_fixed,
        shows=lambda value, grads: not norm(grads["Conv_0"]) > 1e-6,
        params=r"Conv_0|GroupNorm16_0",
        remedy=r"float32|upcast|precision|range|overflow|scale",
    ),
    "mask_float16": Report(
        source="google/flax#982 (also ahrefs/ocannl#548)",
        symptom="attention with a mask gives nan in float16, none in float32 and bfloat16",
        truth="-1e9 is not a float16: it becomes -inf, and a row that is masked all through is "
        "softmax of -inf only, 0 / 0. The loss leaves those rows out, the gradient does not. At "
        "the mask. Use finfo(dtype).min, or a softmax in float32.",
        kinds=("non_finite", "precision"),
        make=mask_float16,
        fixed=mask_float16_fixed,
        shows=lambda value, grads: not np.isfinite(norm(grads)),
        remedy=r"mask|finfo|float32|-?inf|softmax|finite|where",
    ),
    "layer_norm_power": Report(
        source="131250208/TPlinker-joint-extraction#37",
        symptom="the standard deviation of a layer norm is computed as (variance + eps) ** 2",
        truth="dividing by the square of the variance does not normalise: small inputs are made "
        "large, and large ones smaller still. At the line of std. The power 0.5.",
        kinds=("norm", "forward_drift", "exploding", "vanishing"),
        make=layer_norm_power,
        fixed=layer_norm_power_fixed,
        shows=lambda value, grads: not 0.02 < norm(grads["up0"]) / norm(grads["up3"]) < 50,
        remedy=r"norm|root|sqrt|varia|std|deviation|eps",
    ),
    "batch_norm_unlearned": Report(
        source="facebookresearch/higher#55 (also davda54/sam#30)",
        symptom="in evaluation mode the adapted model is near chance, in training mode it is fine",
        truth="the running statistics were never updated (mean 0, variance 1), so in evaluation "
        "mode the norm is the identity, and kernels of 0.03 shrink signal and gradient at each "
        "layer. At the batch norm. Use the batch's statistics (training mode).",
        kinds=("norm", "vanishing", "forward_drift"),
        make=batch_norm_unlearned,
        fixed=batch_norm_unlearned_fixed,
        shows=lambda value, grads: norm(grads["Conv_0"]["kernel"]) < 1e-4,
        remedy=r"running|batch|statistic|train|init|norm|he_|variance",
    ),
    "bias_before_norm": Report(
        source="ClementPinard/FlowNetPytorch#81 (also phillipi/pix2pix#103)",
        symptom="the biases of convolutions before a batch norm get no gradient and stay at 0",
        truth="nothing is broken: the norm subtracts the mean and the bias with it; its own shift "
        "does the work. The biases are superfluous.",
        kinds=(),
        make=bias_before_norm,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
