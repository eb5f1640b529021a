"""A language model whose output layer keeps the variance 1 that suits a scaled, tied one (Linen)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "huggingface/transformers#26441 and #16749 (T5 v1.1 lm_head)",
    "symptom": "the initial loss is about 110 and not log(vocabulary)",
    "truth": "T5 scales the stream by 1 / sqrt(d) before a tied head of variance 1; the untied head is "
    "drawn with the same variance, but nothing scales: logits of standard deviation sqrt(d). At the head "
    "(line 38). Fix: variance 1 / d.",
    "expect": r"exploding|saturated|forward_drift",
}
WIDTH, WORDS = 128, 300


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.RMSNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4)(h)
        h = nn.RMSNorm()(x)
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(h)))


class Model(nn.Module):
    variance: float

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(WORDS, WIDTH, embedding_init=nn.initializers.normal(1.0))(tokens)
        for _ in range(2):
            x = Block()(x)
        x = nn.RMSNorm()(x)
        init = nn.initializers.normal(self.variance**0.5)
        return nn.Dense(WORDS, use_bias=False, kernel_init=init, name="head")(x)  # fault


def _make(variance):
    model = Model(variance)
    tokens = jax.random.randint(jax.random.key(1), (4, 17), 0, WORDS)
    params = model.init(jax.random.key(0), tokens[:, :-1])["params"]

    def loss(params, tokens):
        logits = jax.nn.log_softmax(model.apply({"params": params}, tokens[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))

    return loss, params, (tokens,)


def make_loss():
    return _make(1.0)


def make_fixed():
    return _make(1.0 / WIDTH)


def shows(value, grads):
    print(
        "      loss",
        value,
        "of log(words)",
        np.log(WORDS),
        " embedding's gradient",
        np.linalg.norm(grads["Embed_0"]["embedding"]),
    )
    return value > 3 * np.log(WORDS)
