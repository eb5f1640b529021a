"""Transformers, healthy ones and sick ones."""

import math
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, normal, sick

BATCH, LENGTH, DIM, HEADS, VOCABULARY = 8, 16, 32, 4, 64


def words(seed=0, batch=BATCH, length=LENGTH):
    """Sequences in which a word hints at the next one."""
    keys = jax.random.split(jax.random.key(seed))
    start = jax.random.randint(keys[0], (batch, 1), 0, VOCABULARY)
    stride = jax.random.randint(keys[1], (batch, 1), 1, 4)
    return (start + stride * jnp.arange(length)) % VOCABULARY


def next_word(logits, ids):
    """Cross entropy of the next word."""
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:]).mean()


def trained(patient, optimiser, steps):
    """The patient after a few steps on its own batch."""

    def step(state, _):
        params, opt = state
        grads = jax.grad(patient.loss)(params, *patient.args)
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimiser.init(p)), None, steps)[0][0])
    return patient._replace(params=run(patient.params))


def standardise(x, eps=1e-5):
    """Layer normalisation without parameters."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)


def attention(p, x, mask=None, scale=None, heads=HEADS):
    """Multi-head attention in bare JAX; `mask` is True where a key may be seen."""
    batch, length, _ = x.shape
    size = p["wq"].shape[1] // heads
    q, k, v = (
        (x @ p[name]).reshape(batch, length, heads, -1).swapaxes(1, 2)
        for name in ("wq", "wk", "wv")
    )
    scores = q @ k.swapaxes(-1, -2) * (size**-0.5 if scale is None else scale)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    out = jax.nn.softmax(scores) @ v
    return out.swapaxes(1, 2).reshape(batch, length, -1) @ p["wo"]


def block(seed, dim=DIM, hidden=4 * DIM, std=0.02, last=None, inner=None):
    """Weights of one block."""
    inner = inner or dim
    last = std if last is None else last
    return {
        "wq": normal((dim, inner), seed, std),
        "wk": normal((dim, inner), seed + 1, std),
        "wv": normal((dim, inner), seed + 2, std),
        "wo": normal((inner, dim), seed + 3, last),
        "up": normal((dim, hidden), seed + 4, std),
        "up_bias": jnp.zeros((1, hidden)),
        "down": normal((hidden, dim), seed + 5, last),
    }


def stack(blocks):
    """Blocks as one, for a scan."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def mlp(p, x, activation=jax.nn.gelu):
    """The feed-forward half of a block."""
    return activation(x @ p["up"] + p["up_bias"]) @ p["down"]


def causal(length=LENGTH):
    """Which keys a position may see."""
    return jnp.tril(jnp.ones((length, length), bool))


class Gpt(nn.Module):
    """GPT-2: tied embedding, std of 0.02, and last projections divided by sqrt(2 depth)."""

    depth: int = 2

    @nn.compact
    def __call__(self, ids):
        init, last = nn.initializers.normal(0.02), nn.initializers.normal(0.02 / 4**0.5)
        embed = nn.Embed(VOCABULARY, DIM, embedding_init=init)
        x = embed(ids) + self.param("positions", nn.initializers.normal(0.01), (LENGTH, DIM))
        mask = nn.make_causal_mask(ids)
        for _ in range(self.depth):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS, kernel_init=init, out_kernel_init=last)(
                h, mask=mask
            )
            h = nn.gelu(nn.Dense(4 * DIM, kernel_init=init)(nn.LayerNorm()(x)))
            x = x + nn.Dense(DIM, kernel_init=last)(h)
        return embed.attend(nn.LayerNorm()(x))


def gpt():
    """GPT-2, fresh."""
    ids = words()
    params = Gpt().init(jax.random.key(0), ids)["params"]
    return Patient(lambda p, ids: next_word(Gpt().apply({"params": p}, ids), ids), params, (ids,))


class Vit(nn.Module):
    """Vision transformer with a class token and a head of zeros."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(DIM, (4, 4), strides=(4, 4))(images)
        x = x.reshape(len(x), -1, DIM)
        token = self.param("token", nn.initializers.zeros, (1, 1, DIM))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], DIM))
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(
                HEADS, kernel_init=nn.initializers.xavier_uniform()
            )(h, h)
            h = nn.Dense(4 * DIM, kernel_init=nn.initializers.xavier_uniform())(nn.LayerNorm()(x))
            x = x + nn.Dense(DIM, kernel_init=nn.initializers.xavier_uniform())(nn.gelu(h))
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0])


def vit():
    """ViT, fresh: only the head has a gradient in the first step."""
    images = normal((BATCH, 16, 16, 3))
    params = Vit().init(jax.random.key(1), images)["params"]

    def loss(p, images):
        logits = Vit().apply({"params": p}, images)
        labels = jnp.arange(BATCH) % 10
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Patient(loss, params, (images,))


def cait():
    """CaiT: branches scaled by 1e-6 at first, 12 blocks."""
    scales = {"scale_a": jnp.full((1, DIM), 1e-6), "scale_m": jnp.full((1, DIM), 1e-6)}
    params = {
        "patch": normal((48, DIM), 90, 48**-0.5),
        "positions": normal((LENGTH, DIM), 91, 0.02),
        "blocks": stack([{**block(7 * i), **scales} for i in range(12)]),
        "head": normal((DIM, 10), 92, 0.02),
    }

    def loss(p, patches):
        def layer(x, b):
            x = x + b["scale_a"] * attention(b, standardise(x))
            return x + b["scale_m"] * mlp(b, standardise(x)), None

        x = jax.lax.scan(layer, patches @ p["patch"] + p["positions"], p["blocks"])[0]
        logits = standardise(x).mean(1) @ p["head"]
        labels = jnp.arange(BATCH) % 10
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Patient(loss, params, (normal((BATCH, LENGTH, 48)),))


class LlamaBlock(eqx.Module):
    """A block with RMS norms, rotary positions and SwiGLU."""

    norms: list
    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    gate: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    rope: eqx.nn.RotaryPositionalEmbedding

    def __init__(self, key):
        """Draw the weights."""
        k = jax.random.split(key, 5)
        dense = lambda i, o, key: eqx.nn.Linear(i, o, use_bias=False, key=key)  # noqa: E731
        self.norms = [eqx.nn.RMSNorm(DIM), eqx.nn.RMSNorm(DIM)]
        self.qkv, self.out = dense(DIM, 3 * DIM, k[0]), dense(DIM, DIM, k[1])
        self.gate, self.up = dense(DIM, 88, k[2]), dense(DIM, 88, k[3])
        self.down = dense(88, DIM, k[4])
        self.rope = eqx.nn.RotaryPositionalEmbedding(DIM // HEADS)

    def __call__(self, x):
        """One sequence."""
        h = jax.vmap(self.qkv)(jax.vmap(self.norms[0])(x)).reshape(len(x), 3, HEADS, -1)
        q, k = (jax.vmap(self.rope, 1, 1)(h[:, i]) for i in (0, 1))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(causal(len(x)), scores, -jnp.inf))
        h = jnp.einsum("hqk,khd->qhd", weights, h[:, 2]).reshape(len(x), DIM)
        x = x + jax.vmap(self.out)(h)
        h = jax.vmap(self.norms[1])(x)
        h = jax.nn.silu(jax.vmap(self.gate)(h)) * jax.vmap(self.up)(h)
        return x + jax.vmap(self.down)(h)


class Llama(eqx.Module):
    """A small Llama."""

    embed: eqx.nn.Embedding
    blocks: list
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, key, depth=2):
        """Draw the weights."""
        k = jax.random.split(key, depth + 2)
        self.embed = eqx.nn.Embedding(VOCABULARY, DIM, key=k[0])
        self.blocks = [LlamaBlock(key) for key in k[2:]]
        self.norm = eqx.nn.RMSNorm(DIM)
        self.head = eqx.nn.Linear(DIM, VOCABULARY, use_bias=False, key=k[1])

    def __call__(self, ids):
        """One sequence."""
        x = jax.vmap(self.embed)(ids)
        for b in self.blocks:
            x = b(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def llama(steps=40):
    """A small Llama after a few dozen steps of AdamW."""
    params, static = eqx.partition(Llama(jax.random.key(3)), eqx.is_inexact_array)
    loss = lambda p, ids: next_word(jax.vmap(eqx.combine(p, static))(ids), ids)  # noqa: E731
    return trained(Patient(loss, params, (words(),)), optax.adamw(1e-3), steps)


def rezero():
    """ReZero: no norms, branches behind a number that starts at 0; 12 blocks of He weights."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "positions": normal((LENGTH, DIM), 91, 0.1),
        "blocks": stack(
            [
                {**block(7 * i, std=DIM**-0.5), "alpha_a": jnp.zeros(()), "alpha_m": jnp.zeros(())}
                for i in range(12)
            ]
        ),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        def layer(x, b):
            x = x + b["alpha_a"] * attention(b, x, causal())
            return x + b["alpha_m"] * mlp(b, x, jax.nn.relu), None

        x = jax.lax.scan(layer, p["embed"][ids] + p["positions"], p["blocks"])[0]
        return next_word(x @ p["head"], ids)

    return Patient(loss, params, (words(),))


class BertBlock(nnx.Module):
    """A block with its norms after the sums."""

    def __init__(self, rngs):
        """Draw the weights."""
        init = nnx.initializers.normal(0.02)
        self.attention = nnx.MultiHeadAttention(
            HEADS, DIM, kernel_init=init, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(DIM, 4 * DIM, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(4 * DIM, DIM, kernel_init=init, rngs=rngs)
        self.norm_a, self.norm_m = nnx.LayerNorm(DIM, rngs=rngs), nnx.LayerNorm(DIM, rngs=rngs)

    def __call__(self, x, mask):
        """A batch of sequences."""
        x = self.norm_a(x + self.attention(x, mask=mask))
        return self.norm_m(x + self.down(nnx.gelu(self.up(x))))


class Bert(nnx.Module):
    """A small BERT that guesses words from their noisy selves."""

    def __init__(self, rngs, depth=2):
        """Draw the weights."""
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Embed(VOCABULARY, DIM, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, DIM, embedding_init=init, rngs=rngs)
        self.norm = nnx.LayerNorm(DIM, rngs=rngs)
        self.blocks = nnx.List([BertBlock(rngs) for _ in range(depth)])

    def __call__(self, ids, mask):
        """A batch of sequences."""
        x = self.norm(self.embed(ids) + self.positions(jnp.arange(LENGTH)))
        for b in self.blocks:
            x = b(x, mask)
        return self.embed.attend(x)


def bert():
    """BERT after a few dozen steps with warm up; half of the sequences are padded."""
    graph, params = nnx.split(Bert(nnx.Rngs(0)))
    ids = words()
    real = jnp.arange(LENGTH) < jnp.where(jnp.arange(BATCH) % 2, LENGTH, LENGTH // 2)[:, None]
    hidden = jnp.where((jnp.arange(LENGTH) % 5 == 2) | ~real, 0, ids)

    def loss(p, hidden, ids):
        logits = nnx.merge(graph, p, copy=True)(hidden, real[:, None, None, :])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        return (losses * real).sum() / real.sum()

    schedule = optax.linear_schedule(0.0, 1e-3, 20)
    return trained(Patient(loss, params, (hidden, ids)), optax.adamw(schedule), 50)


def t5():
    """T5: no 1 / sqrt(d), which the std of the queries' weights holds instead."""
    size = DIM // HEADS
    blocks = []
    for i in range(3):
        b = block(7 * i, std=DIM**-0.5)
        b["wq"] = normal((DIM, DIM), 7 * i, (DIM * size) ** -0.5)
        b["down"] = normal((4 * DIM, DIM), 7 * i + 5, (4 * DIM) ** -0.5)
        blocks.append(b)
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "blocks": blocks,
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        rms = lambda x: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)  # noqa: E731
        x = p["embed"][ids]
        for b in p["blocks"]:
            x = x + attention(b, rms(x), causal(), scale=1.0)
            x = x + mlp(b, rms(x), jax.nn.relu)
        return next_word(rms(x) @ p["head"], ids)

    return Patient(loss, params, (words(),))


class Dit(nn.Module):
    """A diffusion transformer whose blocks are the identity at first (adaLN-Zero)."""

    @nn.compact
    def __call__(self, x, t):
        dense = lambda n, **kw: nn.Dense(n, kernel_init=nn.initializers.xavier_uniform(), **kw)  # noqa: E731
        zeros = lambda n: nn.Dense(n, kernel_init=nn.initializers.zeros)  # noqa: E731
        angles = t[:, None] * 1000.0 * jnp.exp(-jnp.arange(8) * math.log(10000.0) / 8)
        c = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
        c = nn.silu(nn.Dense(DIM)(nn.silu(nn.Dense(DIM)(c))))[:, None]
        h = dense(DIM)(x) + jnp.sin(jnp.arange(x.shape[1])[:, None] * 0.7 ** jnp.arange(DIM))
        for _ in range(2):
            shift, scale, gate, shift2, scale2, gate2 = jnp.split(zeros(6 * DIM)(c), 6, -1)
            n = nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale) + shift
            h = h + gate * nn.MultiHeadDotProductAttention(HEADS)(n)
            n = nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale2) + shift2
            h = h + gate2 * dense(DIM)(nn.gelu(dense(4 * DIM)(n)))
        shift, scale = jnp.split(zeros(2 * DIM)(c), 2, -1)
        n = nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale) + shift
        return zeros(x.shape[-1])(n)


def dit():
    """A diffusion transformer, fresh: all but the last layer stand still in the first step."""
    x, noise = normal((BATCH, LENGTH, 8), 1), normal((BATCH, LENGTH, 8), 2)
    t = jnp.linspace(0.02, 0.98, BATCH)
    params = Dit().init(jax.random.key(0), x, t)["params"]

    def loss(p, x, noise, t):
        a = t[:, None, None]
        noisy = jnp.cos(a * jnp.pi / 2) * x + jnp.sin(a * jnp.pi / 2) * noise
        return jnp.mean((Dit().apply({"params": p}, noisy, t) - noise) ** 2)

    return Patient(loss, params, (x, noise, t))


def unscaled():
    """Scores of wide heads without 1 / sqrt(d), so that every softmax sees one key alone."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "blocks": [block(7 * i, std=DIM**-0.5, inner=HEADS * 512) for i in range(2)],
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }
    for b in params["blocks"]:
        b |= {"wq": 1.5 * b["wq"], "wk": 1.5 * b["wk"], "wo": 0.1 * b["wo"]}

    def loss(p, ids):
        x = p["embed"][ids]
        for b in p["blocks"]:
            x = x + attention(b, standardise(x), causal(), scale=1.0)
            x = x + mlp(b, standardise(x))
        return next_word(standardise(x) @ p["head"], ids)

    return sick(Patient(loss, params, (words(),)), "saturated", "wq", "vanishing")


def collapsed():
    """Norms after the sums and a large rate without warm up: all tokens have become one."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "positions": normal((LENGTH, DIM), 91, 0.1),
        "blocks": stack([block(7 * i, std=DIM**-0.5, last=(4 * DIM) ** -0.5) for i in range(12)]),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        def layer(x, b):
            x = standardise(x + attention(b, x))
            return standardise(x + mlp(b, x, jax.nn.relu)), None

        x = jax.lax.scan(layer, p["embed"][ids] + p["positions"], p["blocks"])[0]
        return next_word(x @ p["head"], ids)

    patient = trained(Patient(loss, params, (words(),)), optax.adam(2e-2), 30)
    return sick(patient, "rank_collapse", "", "vanishing", "dead_units", "saturated")


def masked_out():
    """A mask the wrong way round: a sequence without padding has no key left."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "block": block(0, std=DIM**-0.5),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }
    padding = jnp.arange(LENGTH) >= jnp.array([16, 12, 10, 16, 8, 9, 11, 13])[:, None]

    def loss(p, ids):
        x = p["embed"][ids]
        x = x + attention(p["block"], standardise(x), padding[:, None, None, :])
        x = x + mlp(p["block"], standardise(x))
        return next_word(standardise(x) @ p["head"], ids)

    return sick(Patient(loss, params, (words(),)), "non_finite", "block")


def padding_seen():
    """A mask the wrong way round: all attend to the padding, which is the same everywhere."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "block": block(0, std=DIM**-0.5),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }
    padding = jnp.arange(LENGTH) >= jnp.array([15, 12, 10, 14, 8, 9, 11, 13])[:, None]
    ids = jnp.where(padding, 0, words())

    def loss(p, ids):
        x = p["embed"][ids]
        x = x + attention(p["block"], standardise(x), padding[:, None, None, :])
        x = x + mlp(p["block"], standardise(x))
        logits = standardise(x) @ p["head"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
        return (losses * ~padding[:, 1:]).sum() / (~padding[:, 1:]).sum()

    patient = Patient(loss, params, (ids,))
    return sick(patient, "vanishing", "wq", "dead_gradient", "rank_collapse", "symmetry")


def no_skips():
    """Attention and feed-forward of 8 blocks without skip connections, in Equinox."""
    keys = jax.random.split(jax.random.key(0), 9)
    layers = [
        (eqx.nn.MultiheadAttention(HEADS, DIM, key=k), eqx.nn.LayerNorm(DIM)) for k in keys[:8]
    ]
    model = (layers, eqx.nn.Linear(DIM, VOCABULARY, key=keys[8]))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def forward(model, x):
        layers, head = model
        for attend, norm in layers:
            x = attend(x, x, x)
            x = jax.vmap(norm)(x)
        return jax.vmap(head)(x)

    def loss(p, x, ids):
        return next_word(jax.vmap(lambda x: forward(eqx.combine(p, static), x))(x), ids)

    patient = Patient(loss, params, (normal((BATCH, LENGTH, DIM)), words()))
    return sick(patient, "rank_collapse", "", "vanishing", "exploding", "forward_drift")


def no_norms():
    """Twelve blocks of He weights, neither norms nor scales: the stream grows without end."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "blocks": stack(
            [
                block(7 * i, std=(2 / DIM) ** 0.5) | {"down": normal((4 * DIM, DIM), i, 0.25)}
                for i in range(12)
            ]
        ),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        def layer(x, b):
            x = x + attention(b, x, causal())
            return x + mlp(b, x, jax.nn.relu), None

        x = jax.lax.scan(layer, p["embed"][ids], p["blocks"])[0]
        return next_word(x @ p["head"], ids)

    also = ("forward_drift", "saturated", "rank_collapse")
    return sick(Patient(loss, params, (words(),)), "exploding", "blocks", *also)


class Normed(nn.Module):
    """Two blocks; one of the norms may lie over the wrong axis, or the head end in a softmax."""

    axis: Any = -1
    softmax: bool = False
    bias: float = 0.0

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, DIM, embedding_init=nn.initializers.normal(1.0))(ids)
        x = x + self.param("positions", nn.initializers.normal(0.1), (LENGTH, DIM))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x))
            up = nn.Dense(4 * DIM, bias_init=nn.initializers.constant(self.bias))
            x = x + nn.Dense(DIM)(nn.relu(up(nn.LayerNorm()(x))))
        x = nn.Dense(VOCABULARY)(nn.LayerNorm()(x))
        return nn.softmax(x) if self.softmax else x


def normed(module):
    """A patient of the above."""
    ids = words()
    params = module.init(jax.random.key(0), ids)["params"]
    return Patient(lambda p, ids: next_word(module.apply({"params": p}, ids), ids), params, (ids,))


def normed_scores():
    """A query-key norm over the axis of one head's single feature."""
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "block": block(0, std=DIM**-0.5),
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        b = p["block"]
        x = p["embed"][ids]
        h = standardise(x)
        q, k = (standardise((h @ b[name])[..., None])[..., 0] for name in ("wq", "wk"))
        scores = q @ k.swapaxes(-1, -2) / DIM**0.5
        x = x + jax.nn.softmax(jnp.where(causal(), scores, -jnp.inf)) @ (h @ b["wv"]) @ b["wo"]
        x = x + mlp(b, standardise(x))
        return next_word(standardise(x) @ p["head"], ids)

    patient = Patient(loss, params, (words(),))
    return sick(patient, "norm", "wq", "vanishing", "dead_gradient", "rank_collapse")


def equal_heads():
    """Every head began as a copy of the first one, and so they stay."""
    copy = lambda w, axis: jnp.concatenate([jnp.split(w, HEADS, axis)[0]] * HEADS, axis)  # noqa: E731
    b = block(0, std=DIM**-0.5)
    b = b | {name: copy(b[name], 1) for name in ("wq", "wk", "wv")} | {"wo": copy(b["wo"], 0)}
    params = {
        "embed": normal((VOCABULARY, DIM), 90),
        "block": b,
        "head": normal((DIM, VOCABULARY), 92, DIM**-0.5),
    }

    def loss(p, ids):
        x = p["embed"][ids]
        x = x + attention(p["block"], standardise(x), causal())
        x = x + mlp(p["block"], standardise(x))
        return next_word(standardise(x) @ p["head"], ids)

    return sick(Patient(loss, params, (words(),)), "symmetry", "block")


def dead_feed_forward():
    """The feed-forward biases have sunk to -8: no hidden unit is ever on."""
    return sick(normed(Normed(bias=-8.0)), "dead_units", "Dense_0", "vanishing", "rank_collapse")


PATIENTS = {
    "gpt-2, tied": gpt,
    "vit, head of zeros": vit,
    "cait, layer scale 1e-6": cait,
    "llama, trained": llama,
    "rezero, 12 blocks": rezero,
    "bert, warmed up": bert,
    "t5, no 1/sqrt(d) but its init": t5,
    "dit, adaln-zero": dit,
    "pre-norm with relu": lambda: normed(Normed()),
    "no 1/sqrt(d), wide heads": unscaled,
    "post-norm, no warm up": collapsed,
    "mask upside down, none left": masked_out,
    "mask upside down, padding seen": padding_seen,
    "no skips, equinox": no_skips,
    "no norms, 12 blocks": no_norms,
    "double softmax": lambda: sick(normed(Normed(softmax=True)), "double_softmax"),
    "query-key norm of one number": normed_scores,
    "equal heads": equal_heads,
    "dead feed-forward": dead_feed_forward,
}
