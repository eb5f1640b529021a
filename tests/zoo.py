"""Models that are not ours to shape: for each a loss, its parameters and its other arguments."""

from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vanishing import layers, networks

BATCH, FEATURES, CLASSES = 4, 6, 3


class Model(NamedTuple):
    loss: Any
    params: Any
    args: tuple
    has_aux: bool = False
    rtol: float = 1e-9


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def labels():
    return jnp.arange(BATCH) % CLASSES


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def of_linen(module, x, *, train=None):
    kwargs = {} if train is None else {"train": train}
    variables = module.init(jax.random.key(0), x, **kwargs)
    variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), variables)
    params = variables.pop("params")

    def loss(params, x, y):
        variables_in = {"params": params, **variables}
        mutable = list(variables)
        if mutable:
            logits, updates = module.apply(variables_in, x, mutable=mutable, **kwargs)
            return cross_entropy(logits, y), updates
        return cross_entropy(module.apply(variables_in, x, **kwargs), y)

    return Model(loss, params, (x, labels()), has_aux=bool(variables))


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 7):
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(CLASSES)(x)


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        for features in (4, 5):
            x = nn.Conv(features, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class ResidualBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, _):
        h = nn.relu(nn.LayerNorm()(x))
        return x + nn.Dense(self.features)(h), None


class LinenResNet(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="stem")(x)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
        x, _ = stack(8, name="blocks")(x, None)
        return nn.Dense(CLASSES, name="head")(x)


class LinenRNN(nn.Module):
    cell: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.RNN(self.cell)(x)[:, -1])


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + self.param("positions", nn.initializers.normal(0.1), x.shape[1:])[None]
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h)
            h = nn.Dense(12)(nn.LayerNorm()(x))
            x = x + nn.Dense(x.shape[-1])(nn.gelu(h))
        return nn.Dense(CLASSES)(x.mean(axis=1))


def of_nnx(model, x):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x, y):
        module = nnx.merge(graph, params, rest, copy=True)
        return cross_entropy(module(x), y)

    return Model(loss, params, (rest, x, labels()))


class NNXMLP(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List(
            [
                nnx.Linear(a, b, rngs=rngs, param_dtype=jnp.float64)
                for a, b in ((FEATURES, 8), (8, 8), (8, CLASSES))
            ]
        )

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.sigmoid(layer(x))
        return self.layers[-1](x)


class NNXCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs, param_dtype=jnp.float64)
        self.norm = nnx.BatchNorm(4, rngs=rngs, param_dtype=jnp.float64)
        self.head = nnx.Linear(4 * 16, CLASSES, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        x = nnx.silu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.head(x.reshape(len(x), -1))


class NNXRNN(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(FEATURES, 5, rngs=rngs, param_dtype=jnp.float64))
        self.head = nnx.Linear(5, CLASSES, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


class NNXAttention(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs, param_dtype=jnp.float64)
        self.attention = nnx.MultiHeadAttention(
            2, 8, decode=False, rngs=rngs, param_dtype=jnp.float64
        )
        self.head = nnx.Linear(8, CLASSES, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.head((x + self.attention(self.norm(x))).mean(axis=1))


def of_equinox(model, x):
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x, y):
        return cross_entropy(jax.vmap(eqx.combine(params, static))(x), y)

    return Model(loss, params, (x, labels()))


class EquinoxRNN(eqx.Module):
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key):
        self.cell = eqx.nn.LSTMCell(FEATURES, 5, key=key)
        self.head = eqx.nn.Linear(5, CLASSES, key=key)

    def __call__(self, xs):
        def step(state, x):
            return self.cell(x, state), None

        state, _ = jax.lax.scan(step, (jnp.zeros(5), jnp.zeros(5)), xs)
        return self.head(state[0])


def bare_mlp():
    params = [
        (normal((6, 8), 2) / 2, normal((8,), 3)),
        (normal((8, CLASSES), 4), jnp.zeros(CLASSES)),
    ]

    def loss(params, x, y):
        for w, b in params[:-1]:
            x = jnp.maximum(x @ w + b[None], 0)
        w, b = params[-1]
        return cross_entropy(x @ w + b[None], y)

    return Model(loss, params, (normal((BATCH, 6)), labels()))


def bare_rnn():
    params = {
        "wx": normal((FEATURES, 5), 2) / 2,
        "wh": normal((5, 5), 3) / 2,
        "b": jnp.zeros((1, 5)),
    }

    def loss(params, xs):
        def step(h, x):
            h = jnp.tanh(x @ params["wx"] + h @ params["wh"] + params["b"])
            return h, h

        _, hs = jax.lax.scan(step, jnp.zeros((BATCH, 5)), xs)
        return jnp.mean(hs[-1] ** 2), {"hs": hs}

    return Model(loss, params, (normal((7, BATCH, FEATURES)),), has_aux=True)


def tied():
    params = {"w": normal((6, 6), 2) / 2, "unused": normal((3,), 5)}

    def loss(params, x):
        h = jnp.sin(x @ params["w"])
        return jnp.mean((h @ params["w"].T - x) ** 2)

    return Model(loss, params, (normal((BATCH, 6)),))


def branching():
    params = {"a": normal((6, 6), 2), "b": normal((6, 6), 3)}

    def loss(params, x, flag):
        h = jax.lax.cond(
            flag, lambda x: jnp.tanh(x @ params["a"]), lambda x: jax.nn.relu(x @ params["b"]), x
        )
        return jnp.mean((h @ params["a"]) ** 2)

    return Model(loss, params, (normal((BATCH, 6)), True))


def nested():
    """A scan over time in a checkpointed scan over depth, the inner one in reverse."""
    params = {"wx": normal((3, 5, 5), 2) / 3, "wh": normal((3, 5, 5), 3) / 3}

    def loss(params, xs):
        @jax.checkpoint
        def layer(xs, weights):
            def step(h, x):
                h = jax.nn.silu(x @ weights["wx"] + h @ weights["wh"])
                return h, h

            _, hs = jax.lax.scan(step, jnp.zeros((BATCH, 5)), xs, reverse=True)
            return hs, None

        hs, _ = jax.lax.scan(layer, xs, params, unroll=2)
        return jnp.mean(hs**2)

    return Model(loss, params, (normal((4, BATCH, 5)),))


def own(wrap=lambda block: block, activation="gelu"):
    net = networks.mlp(CLASSES, depth=5, width=8, activation=activation, wrap=wrap)
    x = normal((BATCH, FEATURES))
    params, state = net.init(jax.random.key(0), x)

    def loss(params, x, y):
        return cross_entropy(net.apply(params, state, x).output, y)

    return Model(loss, params, (x, labels()))


def prelu_with_norm():
    params = {
        "w": normal((6, 8), 2),
        "slope": jnp.full((1, 8), 0.2),
        "scale": jnp.ones((1, 8)),
        "shift": jnp.zeros((1, 8)),
    }

    def loss(params, x):
        h = x @ params["w"]
        h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5)
        h = h * params["scale"] + params["shift"]
        h = jnp.where(h > 0, h, params["slope"] * h)
        return jnp.mean(jnp.square(h - 1))

    return Model(loss, params, (normal((BATCH, 6)),))


FLAT, IMAGE, SERIES = (BATCH, FEATURES), (BATCH, 8, 8, 1), (BATCH, 7, FEATURES)

ZOO = {
    "linen mlp": lambda: of_linen(LinenMLP(), normal(FLAT)),
    "linen cnn with batch norm": lambda: of_linen(LinenCNN(), normal(IMAGE), train=True),
    "linen scanned resnet": lambda: of_linen(LinenResNet(), normal(FLAT)),
    "linen checkpointed resnet": lambda: of_linen(LinenResNet(remat=True), normal(FLAT)),
    "linen lstm": lambda: of_linen(
        LinenRNN(nn.OptimizedLSTMCell(5, param_dtype=jnp.float64)), normal(SERIES)
    ),
    "linen gru": lambda: of_linen(LinenRNN(nn.GRUCell(5, param_dtype=jnp.float64)), normal(SERIES)),
    "linen transformer": lambda: of_linen(LinenTransformer(), normal((BATCH, 5, 8))),
    "nnx mlp": lambda: of_nnx(NNXMLP(nnx.Rngs(0)), normal(FLAT)),
    "nnx cnn with batch norm": lambda: of_nnx(NNXCNN(nnx.Rngs(0)), normal(IMAGE)),
    "nnx gru": lambda: of_nnx(NNXRNN(nnx.Rngs(0)), normal(SERIES)),
    "nnx attention": lambda: of_nnx(NNXAttention(nnx.Rngs(0)), normal((BATCH, 5, 8)))._replace(
        rtol=1e-5  # it keeps its attention weights in float32
    ),
    "equinox mlp": lambda: of_equinox(
        eqx.nn.MLP(FEATURES, CLASSES, 8, 2, jax.nn.elu, key=jax.random.key(0)), normal(FLAT)
    ),
    "equinox lstm": lambda: of_equinox(EquinoxRNN(jax.random.key(0)), normal(SERIES)),
    "bare mlp": bare_mlp,
    "bare rnn with aux": bare_rnn,
    "tied and unused": tied,
    "branching": branching,
    "nested scans": nested,
    "own mlp": own,
    "own residual mlp": lambda: own(layers.residual, "relu"),
    "prelu and norm": prelu_with_norm,
}
