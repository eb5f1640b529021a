"""Reported faults of the optimiser's step, and one that was none."""

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


# A tagger whose parameters themselves are float16.


class Tagger(nn.Module):
    stored: object

    @nn.compact
    def __call__(self, tokens):
        kind = {"dtype": jnp.float16, "param_dtype": self.stored}
        x = nn.Embed(48, 32, name="embed", **kind)(tokens)
        x = x + nn.gelu(nn.Dense(32, name="mix", **kind)(x))
        return nn.Dense(8, name="tags", **kind)(x).astype(jnp.float32)


def _tagger(stored):
    model = Tagger(stored)
    tokens = jax.random.randint(jax.random.key(1), (8, 8), 0, 32)  # the last 16 ids are rare
    tags = jax.random.randint(jax.random.key(2), (8, 8), 0, 8)
    params = model.init(jax.random.key(0), tokens)["params"]

    def loss(params, tokens, tags):
        logits = model.apply({"params": params}, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tags).mean()

    return loss, params, (tokens, tags)


def adam_float16():
    """Parameters, gradients and moments in float16."""
    return _tagger(jnp.float16)  # fault: adam_float16


def adam_float16_fixed():
    """The same with master weights in float32."""
    return _tagger(jnp.float32)


def _adam():
    return optax.adam(1e-3)  # fault: adam_float16


def _adam_breaks(value, grads):
    updates, _ = _adam().update(grads, _adam().init(grads))
    return bool(np.isfinite(value)) and not all(
        np.isfinite(np.asarray(u, np.float32)).all() for u in jax.tree.leaves(updates)
    )


# A classifier with a head that begins at zero, under a layer-wise adaptive step.


class Classifier(nnx.Module):
    def __init__(self, head_init, rngs):
        self.inner = nnx.Linear(20, 48, use_bias=False, rngs=rngs)
        self.outer = nnx.Linear(48, 48, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(48, 6, use_bias=False, kernel_init=head_init, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.inner(x))
        return self.head(jnp.tanh(self.outer(h)))


def _classifier(head_init):
    graph, params = nnx.split(Classifier(head_init, nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (48, 20))
    y = jnp.argmax(x[:, :6], -1)

    def loss(params, x, y):
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, y)


def lamb_zero_norm():
    """A head of zeros, which the trust ratio multiplies by its own norm."""
    return _classifier(nnx.initializers.zeros)


def lamb_zero_norm_fixed():
    """The head begins small instead of at zero."""
    return _classifier(nnx.initializers.normal(0.02))


def _lamb(params, grads, rate=2e-3):
    def step(p, g):
        direction = g / (jnp.abs(g) + 1e-6)  # the first step of Adam
        trust = jnp.linalg.norm(p) / (jnp.linalg.norm(direction) + 1e-6)  # fault: lamb_zero_norm
        return -rate * trust * direction

    return jax.tree.map(step, params, grads)


# An autoencoder of sensor readings by plain gradient descent.


def _autoencoder(reduce):
    keys = jax.random.split(jax.random.key(0), 5)
    sizes = ((24, 32), (32, 6), (6, 32), (32, 24))
    params = {
        f"layer{i}": {"w": jax.random.normal(k, s) / s[0] ** 0.5, "b": jnp.zeros(s[1])}
        for i, (k, s) in enumerate(zip(keys, sizes, strict=False))
    }
    x = jax.random.normal(keys[4], (64, 6)) @ jax.random.normal(jax.random.key(9), (6, 24)) / 2

    def loss(params, x):
        h = x
        for i in range(4):
            h = h @ params[f"layer{i}"]["w"] + params[f"layer{i}"]["b"]
            h = h if i == 3 else jnp.tanh(h)
        return reduce(h, x)

    return loss, params, (x,)


def sgd_summed_loss():
    """The squares are summed over the batch."""
    return _autoencoder(lambda h, x: jnp.sum((h - x) ** 2))  # fault: sgd_summed_loss


def sgd_summed_loss_fixed():
    """The same averaged."""
    return _autoencoder(lambda h, x: jnp.mean((h - x) ** 2))


# A healthy one: the schedule of a language model begins at a rate of 0.


class Bigram(eqx.Module):
    embed: jax.Array
    mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = 0.5 * jax.random.normal(keys[0], (40, 32))
        self.mlp = eqx.nn.MLP(32, 32, 64, 1, jax.nn.gelu, key=keys[1])
        self.norm = eqx.nn.LayerNorm(32)
        self.out = eqx.nn.Linear(32, 40, key=keys[2])

    def __call__(self, token):
        x = self.embed[token]
        return self.out(self.norm(x + self.mlp(x)))


def warmup_from_zero():
    """A small language model under a warm-up whose first rate is 0."""
    params, static = eqx.partition(Bigram(jax.random.key(0)), eqx.is_inexact_array)
    tokens = jax.random.randint(jax.random.key(1), (8, 33), 0, 40)

    def loss(params, tokens):
        model = eqx.combine(params, static)
        logits = jax.vmap(jax.vmap(model))(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return loss, params, (tokens,)


def _warmup():
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 2000)
    return optax.adamw(rate, weight_decay=0.01)


REPORTS = {
    "adam_float16": Report(
        source="google-deepmind/optax#1754 (also FluxML/Optimisers.jl#167, glide-finetune#5)",
        symptom="loss and gradients are usual, after the first step all parameters are nan or inf",
        truth="Adam works in the parameters' float16: epsilon 1e-8 rounds to 0 there, as does the "
        "second moment of small gradients, so a row without gradient becomes 0 / 0 and the others "
        "g / 0. Master weights in float32, or an epsilon of 1e-4.",
        kinds=("non_finite", "precision", "update_ratio"),
        make=adam_float16,
        fixed=adam_float16_fixed,
        shows=_adam_breaks,
        params=r"embed|mix|tags",
        remedy=r"float32|master|eps|precision|float16",
        optimizer=_adam,
    ),
    "lamb_zero_norm": Report(
        source="cybertronai/pytorch-lamb#6",
        symptom="layers that begin at zero never change",
        truth="the trust ratio is the norm of the parameter over that of its step: 0 for a head "
        "of zeros, for ever, and behind it nothing gets a gradient. At the line of the ratio. A "
        "ratio of 1 where the norm is 0; or do not begin at zero.",
        kinds=("update_ratio", "dead_gradient", "vanishing"),
        make=lamb_zero_norm,
        fixed=lamb_zero_norm_fixed,
        shows=lambda value, grads: norm(grads["inner"]) == 0 and norm(grads["head"]) > 1e-3,
        params=r"head|inner|outer",
        remedy=r"zero|trust|ratio|norm|init",
        updates=_lamb,
    ),
    "sgd_summed_loss": Report(
        source="microsoft/CNTK#1621 (also peterroelants/peterroelants.github.io#5)",
        symptom="converges with a small batch, with more samples the error grows at every step",
        truth="the loss is a sum over the batch, so the step grows with the number of samples: "
        "with 64 it is larger than the weights. Average, or divide the rate by the batch.",
        kinds=("update_ratio", "exploding"),
        make=sgd_summed_loss,
        fixed=sgd_summed_loss_fixed,
        shows=lambda value, grads: 0.05 * norm(grads) > 10,
        params=r"layer\d",
        remedy=r"mean|average|batch|learning.rate|rate|clip|smaller|lower|step",
        optimizer=lambda: optax.sgd(0.05),
    ),
    "warmup_from_zero": Report(
        source="google-research/bert#1293 (also EleutherAI/gpt-neox#1373)",
        symptom="the first step changes nothing, the model after it is the one before",
        truth="nothing is broken: a warm-up that begins at a rate of 0 has an empty first step.",
        kinds=(),
        make=warmup_from_zero,
        fixed=None,
        shows=lambda value, grads: False,
        optimizer=_warmup,
    ),
}
