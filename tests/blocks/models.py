"""Healthy small transformers whose options and parameters can be made sick.

Three bases, each a function of a seed (and of options) that returns `(loss, params, args)`, to be
called as `loss(params, *args)`:

- `gpt`: Flax Linen, causal, pre-norm, LayerNorm, learned positions, GELU, every bias.
- `encoder`: bare JAX, masked tokens, post-norm, LayerNorm, learned positions, ReLU, padding.
- `llama`: bare JAX, causal, pre-norm, RMSNorm, rotary positions, SwiGLU, no bias.

Under `recording()`, a loss also hands over its activations.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

Task = tuple[Callable[..., jax.Array], Any, tuple]

PAD, MASK = 0, 1
VOCABULARY = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """What a model is made of; the defaults are healthy."""

    blocks: int = 3
    width: int = 64
    heads: int = 4
    length: int = 24
    batch: int = 8
    std: float | None = 0.02  # of weights; None is lecun_normal
    qk_std: float | None = None  # of query and key weights, where it differs
    ffn_std: float | None = None  # of the feed-forward's first weights, where it differs
    embedding_std: float = 0.02
    head_std: float | None = 0.02
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu
    epsilon: float = 1e-6
    normed: bool = True
    pre_norm: bool = True  # the encoder alone reads it
    rms: bool = False  # the encoder alone reads it
    scaled: bool = True  # attention logits by 1/sqrt(head width)
    score_gain: float = 1.0
    frozen: str = ""  # "query" or "key": cut by stop_gradient
    skip: float = 1.0
    layer_scale: float | None = None  # initial value of a learnt gain on each branch
    token_scale: float = 1.0
    position_scale: float = 1.0
    tied: bool = False
    strict: bool = False  # the causal mask leaves out the token itself
    inverted: bool = False  # the padding mask
    score_dtype: Any = None  # logits of attention and their mask are cast to it
    dtype: Any = jnp.float32  # of the computation; parameters are float32
    dropout: float = 0.0
    scan: bool = False  # llama alone reads it: blocks stacked, under lax.scan
    loss: str = "cross_entropy"  # or "smoothed", "double_softmax", "log_of_softmax"
    temperature: float = 1.0
    data: str = "chain"  # or "equal"
    lengths: str = "ragged"  # of the encoder's examples; or "one_pad", "empty_example"


_taps: list[tuple[str, jax.Array]] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[tuple[str, jax.Array]]]:
    """The named activations of a loss that is called meanwhile."""
    global _taps
    _taps = []
    try:
        yield _taps
    finally:
        _taps = None


def _tap(name: str, value: jax.Array) -> jax.Array:
    if _taps is not None:
        _taps.append((name, value))
    return value


def edit(params: Any, pattern: str, change: Callable[[jax.Array], jax.Array]) -> Any:
    """Parameters with the leaves whose path holds `pattern` changed; at least one has to."""
    met = 0

    def one(path, leaf):
        nonlocal met
        if re.search(pattern, jax.tree_util.keystr(path, simple=True, separator="/")):
            met += 1
            return change(leaf)
        return leaf

    edited = jax.tree_util.tree_map_with_path(one, params)
    if not met:
        raise ValueError(f"no parameter matches {pattern}")
    return edited


# Data


def _chain(seed: int, options: Options) -> np.ndarray:
    """Token chains, in which each token leaves two choices for the next."""
    rng = np.random.default_rng(seed)
    count = VOCABULARY - 2
    tokens = [rng.integers(count, size=options.batch)]
    for _ in range(options.length):
        tokens.append((5 * tokens[-1] + 1 + rng.integers(2, size=options.batch)) % count)
    chain = np.stack(tokens, axis=1) + 2
    return np.full_like(chain, 7) if options.data == "equal" else chain


def _causal_data(seed: int, options: Options) -> tuple[jax.Array, jax.Array]:
    chain = _chain(seed, options)
    return jnp.asarray(chain[:, :-1]), jnp.asarray(chain[:, 1:])


def _masked_data(seed: int, options: Options) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens with a fifth of them masked, the true ones, and the weight of each in the loss."""
    true = _chain(seed, options)[:, :-1]
    rng = np.random.default_rng(seed + 1)
    if options.lengths == "one_pad":
        lengths = np.full(options.batch, options.length - 1)
    else:
        lengths = rng.integers(options.length // 2, options.length - 1, size=options.batch)
        lengths[0] = options.length
    if options.lengths == "empty_example":
        lengths[-1] = 0
    real = np.arange(options.length) < lengths[:, None]
    hidden = (rng.random(true.shape) < 0.2) & real
    hidden[:, 0] |= real[:, 0]
    tokens = np.where(real, np.where(hidden, MASK, true), PAD)
    return jnp.asarray(tokens), jnp.asarray(true), jnp.asarray(hidden, jnp.float32)


# Parts


def _scores(query: jax.Array, key: jax.Array, mask: jax.Array, options: Options) -> jax.Array:
    """Attention weights, of queries and keys as [batch, token, head, feature]."""
    scale = query.shape[-1] ** -0.5 if options.scaled else 1.0
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (scale * options.score_gain)
    if options.score_dtype is not None:
        scores = scores.astype(options.score_dtype)
    scores = jnp.where(mask, scores, jnp.asarray(-1e9, scores.dtype))
    return _tap("attention", jax.nn.softmax(scores)).astype(query.dtype)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, options: Options
) -> jax.Array:
    if options.frozen == "query":
        query = jax.lax.stop_gradient(query)
    if options.frozen == "key":
        key = jax.lax.stop_gradient(key)
    return jnp.einsum("bhqk,bkhd->bqhd", _scores(query, key, mask, options), value)


def _causal_mask(options: Options) -> jax.Array:
    return jnp.tril(jnp.ones((options.length, options.length), bool), -1 if options.strict else 0)


def _cross_entropy(
    logits: jax.Array, targets: jax.Array, options: Options, weights: jax.Array | None = None
) -> jax.Array:
    logits = _tap("logits", logits.astype(jnp.float32) / options.temperature)
    if options.loss == "log_of_softmax":
        chosen = jnp.take_along_axis(jax.nn.softmax(logits), targets[..., None], -1)[..., 0]
        losses = -jnp.log(chosen)
    elif options.loss == "smoothed":
        labels = optax.smooth_labels(jax.nn.one_hot(targets, VOCABULARY), 0.1)
        losses = optax.softmax_cross_entropy(logits, labels)
    else:
        if options.loss == "double_softmax":
            logits = jax.nn.softmax(logits)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if weights is None:
        return losses.mean()
    return jnp.sum(losses * weights) / jnp.maximum(weights.sum(), 1.0)


# Flax Linen


def _init(std: float | None) -> Callable:
    return nn.initializers.lecun_normal() if std is None else nn.initializers.normal(std)


class Block(nn.Module):
    """Attention and a feed-forward, each after a norm and around it a skip."""

    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        o = self.options
        fan = None if o.std is None else o.std / math.sqrt(2 * o.blocks)

        def norm(x, name):
            if not o.normed:
                return x
            return _tap("normed", nn.LayerNorm(o.epsilon, dtype=o.dtype, name=name)(x))

        def branch(x, name):
            x = nn.Dropout(o.dropout, deterministic=not train)(x)
            if o.layer_scale is not None:
                x = x * self.param(name, nn.initializers.constant(o.layer_scale), (o.width,))
            return _tap("branch", x)

        def attention_fn(query, key, value, mask=None, **kwargs):
            usual = o.scaled and o.score_gain == 1 and not o.frozen and o.score_dtype is None
            if usual and _taps is None:
                return nn.dot_product_attention(query, key, value, mask=mask, **kwargs)
            return _attend(query, key, value, mask, o)

        y = norm(x, "norm_1")
        kernel_init = _init(o.std if o.qk_std is None else o.qk_std)
        y = nn.MultiHeadDotProductAttention(
            o.heads,
            dtype=o.dtype,
            kernel_init=kernel_init,
            out_kernel_init=_init(fan),
            dropout_rate=o.dropout,
            deterministic=not train,
            attention_fn=attention_fn,
            name="attention",
        )(y, mask=mask)
        x = _tap("stream", o.skip * x + branch(y, "scale_1"))
        y = norm(x, "norm_2")
        y = nn.Dense(
            4 * o.width,
            dtype=o.dtype,
            kernel_init=_init(o.std if o.ffn_std is None else o.ffn_std),
            name="expand",
        )(y)
        y = _tap("hidden", o.activation(_tap("before_hidden", y)))
        y = nn.Dense(o.width, dtype=o.dtype, kernel_init=_init(fan), name="contract")(y)
        return _tap("stream", o.skip * x + branch(y, "scale_2"))


class GPT(nn.Module):
    """A causal language model."""

    options: Options

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        o = self.options
        init = nn.initializers.normal(o.embedding_std)
        embed = nn.Embed(VOCABULARY, o.width, dtype=o.dtype, embedding_init=init, name="embed")
        position = self.param("position", nn.initializers.normal(0.02), (o.length, o.width))
        x = o.token_scale * embed(tokens) + o.position_scale * position.astype(o.dtype)
        x = nn.Dropout(o.dropout, deterministic=not train)(_tap("stream", x))
        mask = _causal_mask(o)[None, None]
        for index in range(o.blocks):
            x = Block(o, name=f"block_{index}")(x, mask, train)
        x = nn.LayerNorm(o.epsilon, dtype=o.dtype, name="norm")(x) if o.normed else x
        if o.tied:
            return embed.attend(x)
        head = nn.Dense(
            VOCABULARY, use_bias=False, dtype=o.dtype, kernel_init=_init(o.head_std), name="head"
        )
        return head(x)


def gpt(seed: int, **options: Any) -> Task:
    """The Flax Linen language model."""
    o = Options(**options)
    model = GPT(o)
    tokens, targets = _causal_data(seed, o)
    params = model.init(jax.random.key(seed), tokens, False)
    args: tuple = (tokens, targets)
    if o.dropout:
        args = (*args, jax.random.key(seed + 1))

    def loss(params, tokens, targets, key=None):
        rngs = None if key is None else {"dropout": key}
        return _cross_entropy(model.apply(params, tokens, key is not None, rngs=rngs), targets, o)

    return loss, params, args


# Bare JAX


def _matrix(key: jax.Array, rows: int, columns: int, std: float | None) -> jax.Array:
    return (rows**-0.5 if std is None else std) * jax.random.normal(key, (rows, columns))


def _layer_norm(x: jax.Array, norm: dict, o: Options) -> jax.Array:
    shift = 0.0
    if not o.rms:
        x = x - x.mean(-1, keepdims=True)
        shift = norm["shift"]
    scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + o.epsilon)
    return _tap("normed", x * scale * norm["gain"] + shift)


def _rms_norm(x: jax.Array, gain: jax.Array, o: Options) -> jax.Array:
    if not o.normed:
        return x
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + o.epsilon) * gain
    return _tap("normed", y.astype(x.dtype))


def _split(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _merge(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)


def encoder(seed: int, **options: Any) -> Task:
    """The bare-JAX encoder that recovers masked tokens."""
    o = Options(
        **{
            "std": None,
            "embedding_std": 1.0,
            "head_std": None,
            "activation": jax.nn.relu,
            "pre_norm": False,
            **options,
        }
    )
    keys = iter(jax.random.split(jax.random.key(seed), 6 * o.blocks + 3))
    norm = {"gain": jnp.ones(o.width)} | ({} if o.rms else {"shift": jnp.zeros(o.width)})
    norms = {"norm_1": norm, "norm_2": norm} if o.normed else {}

    def dense(rows, columns, std):
        return {"kernel": _matrix(next(keys), rows, columns, std), "bias": jnp.zeros(columns)}

    qk_std = o.std if o.qk_std is None else o.qk_std
    params: dict[str, Any] = {
        "embed": o.embedding_std * jax.random.normal(next(keys), (VOCABULARY, o.width)),
        "position": o.embedding_std * 0.5 * jax.random.normal(next(keys), (o.length, o.width)),
        "blocks": [
            {
                "query": dense(o.width, o.width, qk_std),
                "key": dense(o.width, o.width, qk_std),
                "value": dense(o.width, o.width, o.std),
                "out": dense(o.width, o.width, o.std),
                "expand": dense(o.width, 4 * o.width, o.std if o.ffn_std is None else o.ffn_std),
                "contract": dense(4 * o.width, o.width, o.std),
            }
            | norms
            for _ in range(o.blocks)
        ],
        "head": dense(o.width, VOCABULARY, o.head_std),
    }
    if o.pre_norm:
        params["norm"] = norm
    args = _masked_data(seed, o)

    def apply(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def attention(block, x, mask):
        query, key, value = (_split(apply(block[n], x), o.heads) for n in ("query", "key", "value"))
        return apply(block["out"], _merge(_attend(query, key, value, mask, o)))

    def feed_forward(block, x):
        hidden = _tap("hidden", o.activation(_tap("before_hidden", apply(block["expand"], x))))
        return apply(block["contract"], hidden)

    def around(branch, x, norm):
        if not o.normed:
            return _tap("stream", o.skip * x + _tap("branch", branch(x)))
        if o.pre_norm:
            return _tap("stream", o.skip * x + _tap("branch", branch(_layer_norm(x, norm, o))))
        return _tap("stream", _layer_norm(o.skip * x + _tap("branch", branch(x)), norm, o))

    def loss(params, tokens, targets, weights):
        x = o.token_scale * params["embed"][tokens] + o.position_scale * params["position"]
        x = _tap("stream", x)
        mask = (tokens != PAD)[:, None, None, :]
        if o.inverted:
            mask = ~mask
        for block in params["blocks"]:
            x = around(lambda y, block=block: attention(block, y, mask), x, block.get("norm_1"))
            x = around(lambda y, block=block: feed_forward(block, y), x, block.get("norm_2"))
        if o.pre_norm:
            x = _layer_norm(x, params["norm"], o)
        return _cross_entropy(apply(params["head"], x), targets, o, weights)

    return loss, params, args


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions, for queries or keys as [batch, token, head, feature]."""
    length, half = x.shape[1], x.shape[-1] // 2
    angles = jnp.arange(length)[:, None] * 100.0 ** (-jnp.arange(half) / half)
    sine, cosine = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.sin, jnp.cos))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def llama(seed: int, **options: Any) -> Task:
    """The bare-JAX language model with RMSNorm, SwiGLU and rotary positions."""
    o = Options(**{"activation": jax.nn.silu, **options})
    keys = iter(jax.random.split(jax.random.key(seed), 7 * o.blocks + 2))
    fan = None if o.std is None else o.std / math.sqrt(2 * o.blocks)
    qk_std = o.std if o.qk_std is None else o.qk_std
    hidden = 3 * o.width

    def block():
        made = {
            "norm_1": jnp.ones(o.width),
            "query": _matrix(next(keys), o.width, o.width, qk_std),
            "key": _matrix(next(keys), o.width, o.width, qk_std),
            "value": _matrix(next(keys), o.width, o.width, o.std),
            "out": _matrix(next(keys), o.width, o.width, fan),
            "norm_2": jnp.ones(o.width),
            "gate": _matrix(next(keys), o.width, hidden, o.std),
            "up": _matrix(next(keys), o.width, hidden, o.std),
            "down": _matrix(next(keys), hidden, o.width, fan),
        }
        if o.layer_scale is not None:
            made |= {"scale_1": jnp.asarray(o.layer_scale), "scale_2": jnp.asarray(o.layer_scale)}
        return made

    params: dict[str, Any] = {
        "embed": o.embedding_std * jax.random.normal(next(keys), (VOCABULARY, o.width)),
        "blocks": [block() for _ in range(o.blocks)],
        "norm": jnp.ones(o.width),
    }
    if not o.tied:
        params["head"] = _matrix(next(keys), o.width, VOCABULARY, o.head_std)
    if o.scan:
        params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])
    args = _causal_data(seed, o)

    def step(x, block):
        block = jax.tree.map(lambda w: w.astype(o.dtype), block)
        mask = _causal_mask(o)[None, None]
        y = _rms_norm(x, block["norm_1"], o)
        query, key, value = (_split(y @ block[n], o.heads) for n in ("query", "key", "value"))
        y = _merge(_attend(_rotate(query), _rotate(key), value, mask, o)) @ block["out"]
        x = _tap("stream", o.skip * x + _tap("branch", y * block.get("scale_1", 1)))
        y = _rms_norm(x, block["norm_2"], o)
        gate = o.activation(_tap("before_hidden", y @ block["gate"]))
        y = _tap("hidden", gate * (y @ block["up"])) @ block["down"]
        return _tap("stream", o.skip * x + _tap("branch", y * block.get("scale_2", 1)))

    def loss(params, tokens, targets):
        x = _tap("stream", (o.token_scale * params["embed"][tokens]).astype(o.dtype))
        if o.scan:
            x, _ = jax.lax.scan(lambda x, block: (step(x, block), None), x, params["blocks"])
        else:
            for block in params["blocks"]:
                x = step(x, block)
        x = _rms_norm(x, params["norm"], o)
        head = params["embed"].T if o.tied else params["head"]
        return _cross_entropy(x @ head.astype(o.dtype), targets, o)

    return loss, params, args


def train(task: Task, steps: int, rate: float = 1e-3) -> Task:
    """The task after so many steps of Adam."""
    loss, params, args = task
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, *args)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return loss, params, args
