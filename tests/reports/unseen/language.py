"""Language models: masks in half precision, ignored labels, and three false alarms."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.reports.report import Report


def _broken(tree):
    return any(not np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------ a mask that float16 cannot hold


class HalfAttention(nn.Module):
    """Causal attention in float16 between float32 layers."""

    fill: float
    heads: int = 4

    @nn.compact
    def __call__(self, x, real):
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        half = x.astype(jnp.float16)
        q, k, v = (
            nn.Dense(width, dtype=jnp.float16, name=name)(half).reshape(split) for name in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(split[-1]).astype(np.float16)
        seen = jnp.tril(jnp.ones((length, length), bool)) & real[:, None, None, :]
        scores = jnp.where(seen, scores, jnp.float16(self.fill))  # fault: left_padding_in_half
        weights = nn.softmax(scores)  # fault: left_padding_in_half
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width)
        return nn.Dense(width, name="out")(out.astype(jnp.float32))


class HalfDecoder(nn.Module):
    """One pre-norm block over a small vocabulary."""

    fill: float
    vocabulary: int = 32

    @nn.compact
    def __call__(self, tokens, real):
        x = nn.Embed(self.vocabulary, 32, embedding_init=nn.initializers.normal(1.0))(tokens)
        x = x + HalfAttention(self.fill)(nn.LayerNorm()(x), real)
        x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def _left_padded(fill):
    model = HalfDecoder(float(fill))
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 1, 32)
    real = jnp.arange(12) >= jnp.arange(8)[:, None] % 4
    tokens = jnp.where(real, tokens, 0)
    params = model.init(jax.random.key(0), tokens, real)["params"]

    def loss(params, tokens, real):
        logits = model.apply({"params": params}, tokens, real)[:, :-1]
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        counted = real[:, 1:] & real[:, :-1]
        return jnp.sum(jnp.where(counted, nll, 0.0)) / jnp.sum(counted)

    return loss, params, (tokens, real)


def make_left_padding_in_half():
    """Make a decoder whose float16 scores are filled with -1e9, which is -inf there."""
    with np.errstate(over="ignore"):
        return _left_padded(np.float16(-1e9))


def fixed_left_padding_in_half():
    """Make the same decoder, filled with the smallest finite float16."""
    return _left_padded(np.finfo(np.float16).min)


# --------------------------------------------------------------------------- rows without any label


class Tagger(eqx.Module):
    """An embedding, a GRU over time and a head."""

    embed: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, vocabulary, width, key):
        """Draw the weights."""
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(vocabulary, width, key=keys[0])
        self.cell = eqx.nn.GRUCell(width, width, key=keys[1])
        self.head = eqx.nn.Linear(width, vocabulary, key=keys[2])

    def __call__(self, tokens):
        def step(h, token):
            h = self.cell(self.embed(token), h)
            return h, self.head(h)

        return jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), tokens)[1]


IGNORE = -100


def _fine_tune(at_least):
    params, static = eqx.partition(Tagger(40, 32, jax.random.key(0)), eqx.is_array)
    tokens = jax.random.randint(jax.random.key(1), (8, 16), 0, 40)
    prompt = jnp.array([3, 5, 4, 16, 7, 2, 6, 8])  # the fourth prompt fills the whole window
    labels = jnp.where(jnp.arange(16) < prompt[:, None], IGNORE, tokens)

    def loss(params, tokens, labels):
        model = eqx.combine(params, static)

        def one(tokens, labels):
            logits, labels = model(tokens)[:-1], labels[1:]
            kept = labels != IGNORE
            safe = jnp.where(kept, labels, 0)
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, safe) * kept
            return nll.sum() / jnp.maximum(kept.sum(), at_least)  # fault: every_label_ignored

        return jax.vmap(one)(tokens, labels).mean()

    return loss, params, (tokens, labels)


def make_every_label_ignored():
    """Make a fine-tuning loss that divides by the number of labels, which one row lacks."""
    return _fine_tune(0)


def fixed_every_label_ignored():
    """Make the same loss, which divides by at least 1."""
    return _fine_tune(1)


# -------------------------------------------------------- false alarm: the bias of attention's keys


class BiasedAttention(nnx.Module):
    """One attention block with biases everywhere."""

    def __init__(self, width, rngs):
        """Draw the weights."""
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, 5, rngs=rngs)

    def __call__(self, x):
        h = self.norm(x)
        q, k, v = self.query(h), self.key(h), self.value(h)
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1]))
        x = x + self.out(weights @ v)
        return self.head(x.mean(-2))


def make_bias_of_keys():
    """Make attention whose key bias cancels in the softmax: no gradient, and no loss in it."""
    graph, params = nnx.split(BiasedAttention(32, nnx.Rngs(0)), nnx.Param)
    x = jax.random.normal(jax.random.key(1), (16, 10, 32))
    y = jnp.arange(16) % 5

    def loss(params, x, y):
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, y)


# ---------------------------------------------------- false alarm: rows of words that do not appear


def make_words_not_in_batch():
    """Make a bag of words whose batch holds few of the vocabulary's words."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "embedding": jax.random.normal(keys[0], (400, 24)),
        "hidden": {"w": jax.random.normal(keys[1], (24, 48)) / jnp.sqrt(24), "b": jnp.zeros(48)},
        "out": {"w": jax.random.normal(keys[2], (48, 4)) / jnp.sqrt(48), "b": jnp.zeros(4)},
    }
    words = jax.random.randint(keys[3], (16, 6), 0, 400)

    def loss(params, words, y):
        x = params["embedding"][words].sum(1) / jnp.sqrt(words.shape[1])
        h = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
        logits = h @ params["out"]["w"] + params["out"]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (words, jnp.arange(16) % 4)


# ------------------------------------------------ false alarm: the loss of the first GRPO step is 0


def make_first_step_of_grpo():
    """Make a clipped policy loss at the policy that sampled: the value is 0, the slope is not."""
    keys = jax.random.split(jax.random.key(0), 6)
    params = {
        "embed": jax.random.normal(keys[0], (20, 32)),
        "mix": jax.random.normal(keys[1], (32, 64)) / jnp.sqrt(32),
        "out": jax.random.normal(keys[2], (64, 20)) / jnp.sqrt(64),
    }
    prompts = jax.random.randint(keys[3], (4, 1), 0, 20).repeat(8, 0)
    answers = jax.random.randint(keys[4], (32, 6), 0, 20)
    rewards = jax.random.uniform(keys[5], (4, 8))
    spread = rewards.std(1, keepdims=True)
    advantages = ((rewards - rewards.mean(1, keepdims=True)) / spread).reshape(32, 1)

    def log_probs(params, prompts, answers):
        before = jnp.concatenate([prompts, answers[:, :-1]], 1)
        h = jax.nn.silu(params["embed"][before] @ params["mix"])
        logits = h @ params["out"]
        return -optax.softmax_cross_entropy_with_integer_labels(logits, answers)

    def loss(params, prompts, answers, advantages):
        new = log_probs(params, prompts, answers)
        ratio = jnp.exp(new - jax.lax.stop_gradient(new))
        clipped = jnp.clip(ratio, 0.8, 1.2)
        return -jnp.minimum(ratio * advantages, clipped * advantages).mean()

    return loss, params, (prompts, answers, advantages)


def _never(value, grads):
    return _broken(grads) or all(float(jnp.abs(g).max()) < 1e-6 for g in jax.tree.leaves(grads))


REPORTS = {
    "left_padding_in_half": Report(
        source="ahrefs/ocannl#548 (the rows without a key: tracel-ai/burn#4694)",
        symptom="nan from the first step in float16, fine in float32",
        truth="-1e9 does not fit float16 and becomes -inf. Under a causal mask the queries at left "
        "padding see padding only, so their row is -inf throughout and its softmax nan. At the "
        "mask's fill and the softmax after it. Fix: fill with jnp.finfo(dtype).min, or softmax "
        "in float32.",
        kinds=("non_finite", "precision"),
        make=make_left_padding_in_half,
        fixed=fixed_left_padding_in_half,
        shows=lambda value, grads: _broken(grads),
        remedy=r"mask|-inf|finfo|finite|float32|where|softmax",
    ),
    "every_label_ignored": Report(
        source="pytorch/pytorch#116349 (the same in OpenRLHF/OpenRLHF#583)",
        symptom="the fine-tuning loss is nan on some batches",
        truth="a prompt that fills the window leaves a row without a label: 0 / 0 in that row's "
        "mean, and nan in the batch's. At the division. Fix: divide by max(count, 1).",
        kinds=("non_finite",),
        make=make_every_label_ignored,
        fixed=fixed_every_label_ignored,
        shows=lambda value, grads: bool(np.isnan(value)),
        remedy=r"divi|denominator|maximum|max\(|count|mask|0 ?/ ?0|epsilon|where|zero",
    ),
    "bias_of_keys": Report(
        source="microsoft/unilm#510",
        symptom="the bias of the keys stays at 0 / has no gradient",
        truth="nothing is wrong: the bias adds the same number to all scores of a query, and the "
        "softmax takes it away again.",
        kinds=(),
        make=make_bias_of_keys,
        fixed=None,
        shows=_never,
    ),
    "words_not_in_batch": Report(
        source="pytorch/pytorch#18404",
        symptom="the gradient of most embeddings is exactly 0",
        truth="nothing is wrong: a word's row has a gradient where the word is in the batch.",
        kinds=(),
        make=make_words_not_in_batch,
        fixed=None,
        shows=_never,
    ),
    "first_step_of_grpo": Report(
        source="huggingface/trl#2703 (also huggingface/trl#3452)",
        symptom="the policy's loss is 0.0 at first, so it seems that nothing can be learnt",
        truth="nothing is wrong: at the policy that sampled the ratio is 1 and the advantages sum "
        "to 0, but the loss's gradient is the policy gradient.",
        kinds=(),
        make=make_first_step_of_grpo,
        fixed=None,
        shows=_never,
    ),
}
