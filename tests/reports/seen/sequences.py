"""Reported faults of models of sequences, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# A dialogue encoder whose recurrent matrix is drawn with the default deviation of 1.


def _dialogue(recurrent):
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "embed": 0.25 * jax.random.normal(keys[0], (80, 32)),
        "input": nn.initializers.lecun_normal()(keys[1], (32, 64)),
        "recurrent": recurrent(keys[2], (64, 64)),
        "bias": jnp.zeros(64),
        "bilinear": nn.initializers.lecun_normal()(keys[3], (64, 64)),
    }
    context, reply = jax.random.randint(keys[4], (2, 16, 30), 0, 80)

    def encode(params, tokens):
        def step(h, token):
            h = params["embed"][token] @ params["input"] + h @ params["recurrent"]
            return jnp.tanh(h + params["bias"]), None  # fault: recurrent_normal

        return jax.lax.scan(step, jnp.zeros((len(tokens), 64)), tokens.T)[0]

    def loss(params, context, reply):
        c, r = encode(params, context), encode(params, reply)
        scores = c @ params["bilinear"] @ r.T / 8
        return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(16)).mean()

    return loss, params, (context, reply)


def recurrent_normal():
    """The recurrent matrix by a truncated normal with its default deviation."""
    return _dialogue(nn.initializers.truncated_normal(1.0))  # fault: recurrent_normal


def recurrent_normal_fixed():
    """The recurrent matrix is orthogonal."""
    return _dialogue(nn.initializers.orthogonal())


# A classifier of questions that reads its answer behind the padding.


class Questions(eqx.Module):
    embed: jax.Array
    cell: eqx.nn.LSTMCell
    out: eqx.nn.Linear
    real: bool = eqx.field(static=True)

    def __init__(self, real, key):
        keys = jax.random.split(key, 3)
        self.embed = jax.random.normal(keys[0], (60, 32))
        self.cell = eqx.nn.LSTMCell(32, 48, key=keys[1])
        self.out = eqx.nn.Linear(48, 6, key=keys[2])
        self.real = real

    def __call__(self, tokens, length):
        def step(state, x):
            state = self.cell(x, state)
            return state, state[0]

        words = self.embed[tokens] * (tokens > 0)[:, None]
        states = jax.lax.scan(step, (jnp.zeros(48), jnp.zeros(48)), words)[1]
        last = states[length - 1] if self.real else states[-1]  # fault: lstm_reads_padding
        return self.out(last)


def _questions(real):
    params, static = eqx.partition(Questions(real, jax.random.key(0)), eqx.is_inexact_array)
    lengths = jax.random.randint(jax.random.key(1), (24,), 4, 12)
    tokens = jax.random.randint(jax.random.key(2), (24, 120), 1, 60)
    tokens = jnp.where(jnp.arange(120) < lengths[:, None], tokens, 0)

    def loss(params, tokens, lengths, labels):
        logits = jax.vmap(eqx.combine(params, static))(tokens, lengths)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss, params, (tokens, lengths, tokens[:, 0] % 6)


def lstm_reads_padding():
    """The state after 110 steps of padding."""
    return _questions(False)


def lstm_reads_padding_fixed():
    """The state at the last real token."""
    return _questions(True)


# A forecaster with softplus of a steep slope, written as log(1 + exp(x)).


class Demand(nn.Module):
    softplus: object

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(32, (5,), name="near")(x))
        x = nn.tanh(nn.Conv(32, (5,), kernel_dilation=4, name="far")(x))
        rate = nn.Dense(4, bias_init=nn.initializers.constant(20.0), name="rate")(x)
        return self.softplus(rate)


def _demand(softplus):
    model = Demand(softplus)
    time = jnp.arange(64) / 64
    phase = jax.random.uniform(jax.random.key(1), (8, 1, 4))
    x = jnp.sin(2 * jnp.pi * (4 * time[:, None] + phase))
    y = jnp.round(20 + 4 * jnp.roll(x, -1, 1))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        rate = model.apply({"params": params}, x)
        return jnp.mean(rate - y * jnp.log(rate))  # Poisson

    return loss, params, (x, y)


def softplus_overflow():
    """exp(5 x) overflows from x = 18 on."""
    return _demand(lambda x: jnp.log(1 + jnp.exp(5 * x)) / 5)  # fault: softplus_overflow


def softplus_overflow_fixed():
    """The library's softplus."""
    return _demand(lambda x: jax.nn.softplus(5 * x) / 5)


# A healthy one: biases of keys, which the softmax takes away.


class Patches(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32, name="patch")(x)
        x = x + self.param("position", nn.initializers.normal(0.3), x.shape[1:])
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(8, name="head")(nn.LayerNorm()(x.mean(1)))


def key_bias():
    """A small vision transformer with biases on query, key and value."""
    model = Patches()
    x = jax.random.normal(jax.random.key(1), (16, 12, 24))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, jnp.arange(16) % 8)


REPORTS = {
    "recurrent_normal": Report(
        source="dennybritz/chatbot-retrieval#13 (also speechbrain/speechbrain#104)",
        symptom="the encoder hardly learns; the paper said that the initialisation is critical",
        truth="a recurrent 64 x 64 matrix of deviation 1 (0.9 truncated) has gain 8: tanh is "
        "saturated from the second step on and the gradient grows by a factor at each step. At the "
        "initialiser, seen at the tanh. Orthogonal.",
        kinds=("saturated", "exploding"),
        make=recurrent_normal,
        fixed=recurrent_normal_fixed,
        shows=lambda value, grads: norm(grads["recurrent"]) > 1e3,
        params=r"recurrent|input|embed|bias",
        remedy=r"orthogonal|init|scale|smaller|norm|gain|clip|gate",
    ),
    "lstm_reads_padding": Report(
        source="thtrieu/qclass_dl#1 (also keras-team/keras#20898, "
        "bentrevett/pytorch-sentiment-analysis#86)",
        symptom="terrible accuracy with the last output of the sequence, not with the last real",
        truth="the sequences are padded behind to 120 steps and the answer is read from the last "
        "one: the gates forget the words in the 110 steps of zeros, all sequences end in one "
        "state and no gradient reaches the words. At states[-1]. Take the last real step.",
        kinds=("vanishing", "rank_collapse", "dead_gradient"),
        make=lstm_reads_padding,
        fixed=lstm_reads_padding_fixed,
        shows=lambda value, grads: norm(grads.embed) < 1e-9 * norm(grads.out),
        params=r"embed",
        remedy=r"pad|mask|length|last|step|forget|gate|residual|skip|attention",
    ),
    "softplus_overflow": Report(
        source="tracel-ai/burn#5373",
        symptom="softplus with beta 5 is inf for inputs over 18, the gradients nan",
        truth="exp(beta x) overflows to inf in log(1 + exp(beta x)): the value is inf and the "
        "slope inf / inf. At that line. Use logaddexp or the library's softplus.",
        kinds=("non_finite",),
        make=softplus_overflow,
        fixed=softplus_overflow_fixed,
        shows=lambda value, grads: not np.isfinite(norm(grads)),
        remedy=r"softplus|logaddexp|log1p|stable|clip|overflow|exp",
    ),
    "key_bias": Report(
        source="microsoft/unilm#510 (also pytorch/pytorch#153136, pengzhiliang/MAE-pytorch#52)",
        symptom="the biases of the keys stay at zero, their gradient is nothing but rounding",
        truth="nothing is broken: a bias of the keys adds the same to all scores of a query, which "
        "the softmax takes away.",
        kinds=(),
        make=key_bias,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
