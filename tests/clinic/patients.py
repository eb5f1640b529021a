"""Small networks, half of them healthy and half with one known illness, and what each suffers from.

An illness is a kind of finding and a piece of the name of the place. `also` are kinds that the same
illness brings with it and that may be found or not.
"""

from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

BATCH, WIDTH, CLASSES = 32, 64, 4


class Patient(NamedTuple):
    loss: Any
    params: Any
    args: tuple = ()
    updates: Any = None  # maps gradients to updates
    kind: str = ""  # "" for a healthy one
    where: str = ""
    also: frozenset = frozenset()


def normal(shape, seed=0, std=1.0):
    return std * jax.random.normal(jax.random.key(seed), shape)


def cross_entropy(logits):
    labels = jnp.arange(len(logits)) % CLASSES
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def scanned(depth, activation, std, bias=0.0, width=WIDTH, residual=0.0, seed=0):
    """Bare jnp: a stack of equal layers with weights of std / sqrt(fan_in)."""
    params = {
        "hidden": {
            "kernel": normal((depth, width, width), seed, std / width**0.5),
            "bias": jnp.full((depth, 1, width), float(bias)),
        },
        "head": normal((width, CLASSES), seed + 1, width**-0.5),
    }

    def loss(params, x):
        def layer(x, p):
            h = activation(x @ p["kernel"] + p["bias"])
            return (x + residual * h if residual else h), None

        return cross_entropy(jax.lax.scan(layer, x, params["hidden"])[0] @ params["head"])

    return Patient(loss, params, (normal((BATCH, width), seed + 2),))


def standardised(h):
    """Batch normalisation as it is at the start of training."""
    return (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5)


def recurrent(steps, activation, std, seed=0):
    """Bare jnp: an Elman network that is asked about its last state."""
    params = {
        "wx": normal((8, WIDTH), seed, 8**-0.5),
        "wh": std * jax.random.orthogonal(jax.random.key(seed), WIDTH),
        "head": normal((WIDTH, CLASSES), seed + 1, WIDTH**-0.5),
    }

    def loss(params, xs):
        def step(h, x):
            return activation(x @ params["wx"] + h @ params["wh"]), None

        h = jax.lax.scan(step, jnp.zeros((BATCH, WIDTH)), xs)[0]
        return cross_entropy(h @ params["head"])

    return Patient(loss, params, (normal((steps, BATCH, 8), seed + 2),))


class Linen(nn.Module):
    depth: int = 8
    activation: Any = nn.relu
    kernel_init: Any = nn.initializers.he_normal()
    bias_init: Any = nn.initializers.zeros
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.Dense(WIDTH, kernel_init=self.kernel_init, bias_init=self.bias_init)(x)
            if self.norm:
                x = nn.BatchNorm(use_running_average=False)(x)
            x = self.activation(x)
        return nn.Dense(CLASSES)(x)


def linen(module, x):
    variables = module.init(jax.random.key(0), x)
    params = variables.pop("params")

    def loss(params, x):
        if not variables:
            return cross_entropy(module.apply({"params": params}, x))
        variables_in = {"params": params, **variables}
        return cross_entropy(module.apply(variables_in, x, mutable=list(variables))[0])

    return Patient(loss, params, (x,))


class Conv(nn.Module):
    depth: int = 4
    gain: float = 2.0

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        for _ in range(self.depth):
            x = nn.relu(nn.Conv(8, (3, 3), kernel_init=init)(x))
        return nn.Dense(CLASSES)(x.mean(axis=(1, 2)))


class Transformer(nn.Module):
    depth: int = 4
    skip: bool = True
    branch: float = 1.0

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            h = nn.LayerNorm()(x) if self.skip else x
            h = nn.MultiHeadDotProductAttention(num_heads=4)(h)
            x = x + self.branch * h if self.skip else h
            if self.skip:
                x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(x[:, 0])


class Rnn(nn.Module):
    cell: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.RNN(self.cell)(x)[:, -1])


class Nnx(nnx.Module):
    def __init__(self, depth, kernel_init, activation, rngs):
        self.layers = nnx.List(
            [nnx.Linear(WIDTH, WIDTH, kernel_init=kernel_init, rngs=rngs) for _ in range(depth)]
        )
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x)


def of_nnx(depth, kernel_init, activation):
    graph, params = nnx.split(Nnx(depth, kernel_init, activation, nnx.Rngs(0)))
    loss = lambda params, x: cross_entropy(nnx.merge(graph, params, copy=True)(x))  # noqa: E731
    return Patient(loss, params, (normal((BATCH, WIDTH)),))


def equinox(depth, activation, scale=1.0):
    model = eqx.nn.MLP(WIDTH, CLASSES, WIDTH, depth, activation, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    params = jax.tree.map(lambda leaf: scale * leaf, params)
    loss = lambda p, x: cross_entropy(jax.vmap(eqx.combine(p, static))(x))  # noqa: E731
    return Patient(loss, params, (normal((BATCH, WIDTH)),))


def flat(x=None):
    return normal((BATCH, WIDTH)) if x is None else x


def with_extra(change):
    """A healthy network of three layers, changed."""
    params = {f"w{i}": normal((WIDTH, WIDTH), i, (2 / WIDTH) ** 0.5) for i in range(3)}
    params["head"] = normal((WIDTH, CLASSES), 9, WIDTH**-0.5)
    return change(params)


def stopped(params):
    def loss(params, x):
        x = jax.nn.relu(x @ jax.lax.stop_gradient(params["w0"]))
        x = jax.nn.relu(jax.nn.relu(x @ params["w1"]) @ params["w2"])
        return cross_entropy(x @ params["head"])

    return Patient(loss, params, (flat(),), kind="dead_gradient", where="w0")


def plain_three(params, x):
    for i in range(3):
        x = jax.nn.relu(x @ params[f"w{i}"])
    return cross_entropy(x @ params["head"])


def unused(params):
    params = {**params, "aux_head": normal((WIDTH, 2), 5)}
    return Patient(plain_three, params, (flat(),), kind="dead_gradient", where="aux_head")


def born_nan(params):
    def loss(params, x):
        x = jax.nn.relu(x @ params["w0"])
        x = jnp.log(x) @ params["w1"]  # log(0) wherever a unit is off
        return cross_entropy(jax.nn.relu(x @ params["w2"]) @ params["head"])

    return Patient(loss, params, (flat(),), kind="non_finite", where="w0/log")


def infinite_slope(rectifier):
    """The slope of sqrt at 0 meets a rectifier: `maximum` makes nan of it, `relu` leaves it out."""

    def change(params):
        def loss(params, x):
            x = jnp.sqrt(rectifier(x @ params["w0"])) @ params["w1"]
            return cross_entropy(jax.nn.relu(x @ params["w2"]) @ params["head"])

        return Patient(loss, params, (flat(),))

    return change


def normed_number(params):
    params = {**params, "narrow": normal((WIDTH, 1), 5), "wide": normal((1, WIDTH), 6)}
    params["bias"] = normal((1, WIDTH), 7)

    def loss(params, x):
        h = jax.nn.relu(x @ params["w0"]) @ params["narrow"]
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return cross_entropy(jnp.tanh(h @ params["wide"] + params["bias"]) @ params["head"])

    del params["w1"], params["w2"]
    return Patient(loss, params, (flat(),), kind="norm", where="narrow/")


def rounded(params):
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    step = lambda g: jax.tree.map(lambda g: -0.001 * g, g)  # noqa: E731
    x = flat().astype(jnp.bfloat16)
    return Patient(plain_three, params, (x,), kind="precision", where="w", updates=step)


def stepped(rate):
    def change(params):
        return Patient(
            plain_three, params, (flat(),), updates=lambda g: jax.tree.map(lambda g: -rate * g, g)
        )

    return change


def growing(depth):
    """Orthogonal layers that keep the gradient, and biases that each are ten times the last."""
    kernels = jax.random.orthogonal(jax.random.key(0), WIDTH, (depth,))
    params = {
        "kernel": kernels,
        "bias": 10.0 ** jnp.arange(depth)[:, None, None] + normal((depth, 1, WIDTH)),
    }
    params["head"] = 10.0**-depth * normal((WIDTH, CLASSES), 1)

    def loss(params, x):
        layer = lambda x, p: (x @ p[0] + p[1], None)  # noqa: E731
        x = jax.lax.scan(layer, x, (params["kernel"], params["bias"]))[0]
        return cross_entropy(x @ params["head"])

    patient = Patient(loss, params, (normal((BATCH, WIDTH), 2),))
    return sick(patient, "forward_drift", "", "rank_collapse")


def constant(width):
    """Kernels of one number each, as a careless initialiser leaves them."""
    params = {"a": jnp.full((WIDTH, width), 0.1), "b": jnp.full((width, width), 0.02)}
    params["head"] = normal((width, CLASSES), 1, width**-0.5)

    def loss(params, x):
        return cross_entropy(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["head"])

    return sick(
        Patient(loss, params, (normal((BATCH, WIDTH), 2),)), "symmetry", "a", "rank_collapse"
    )


def twice():
    """Probabilities that a loss takes for logits."""
    params = {"a": normal((WIDTH, WIDTH), 0, WIDTH**-0.5), "b": normal((WIDTH, CLASSES), 1, 0.1)}

    def loss(params, x):
        return cross_entropy(jax.nn.softmax(jnp.tanh(x @ params["a"]) @ params["b"]))

    return sick(Patient(loss, params, (normal((BATCH, WIDTH), 2),)), "double_softmax")


def sick(patient, kind, where="", *also):
    return patient._replace(kind=kind, where=where, also=frozenset(also))


VANISHED = ("rank_collapse", "forward_drift")
textbook = nn.initializers.normal(1.0)
small = nn.initializers.normal(0.001)
images = lambda: normal((BATCH, 8, 8, 8))  # noqa: E731
tokens = lambda: normal((8, 12, WIDTH))  # noqa: E731
series = lambda steps: normal((BATCH, steps, 8))  # noqa: E731

PATIENTS = {
    # healthy
    "tanh, 20 layers, critical": lambda: scanned(20, jnp.tanh, 1.0),
    "relu, 20 layers, He": lambda: scanned(20, jax.nn.relu, 2**0.5),
    "relu, 60 residual layers": lambda: scanned(60, jax.nn.relu, 1.0, residual=0.1),
    "linear, 10 layers": lambda: scanned(10, lambda h: h, 1.0),
    "gelu, 8 layers": lambda: scanned(8, jax.nn.gelu, 1.5),
    "sigmoid, 2 layers": lambda: scanned(2, jax.nn.sigmoid, 1.0),
    "silu, 4 layers": lambda: scanned(4, jax.nn.silu, 1.6),
    "elman, 10 steps, orthogonal": lambda: recurrent(10, jnp.tanh, 1.0),
    "linen relu, 5 layers": lambda: linen(Linen(5), flat()),
    "linen tanh, 5 layers, lecun": lambda: linen(
        Linen(5, nn.tanh, nn.initializers.lecun_normal()), flat()
    ),
    "linen batch norm, 3 layers": lambda: linen(Linen(3, norm=True), flat()),
    "linen cnn": lambda: linen(Conv(), images()),
    "linen transformer": lambda: linen(Transformer(2), tokens()),
    "linen lstm, 6 steps": lambda: linen(Rnn(nn.OptimizedLSTMCell(WIDTH)), series(6)),
    "linen gru, 6 steps": lambda: linen(Rnn(nn.GRUCell(WIDTH)), series(6)),
    "nnx relu, 5 layers": lambda: of_nnx(5, nn.initializers.he_normal(), nnx.relu),
    "nnx elu, 5 layers": lambda: of_nnx(5, nn.initializers.lecun_normal(), nnx.elu),
    "equinox mlp, 2 layers": lambda: equinox(2, jax.nn.relu),
    "equinox tanh, 2 layers": lambda: equinox(2, jnp.tanh),
    "a healthy step": lambda: with_extra(stepped(0.01)),
    "one wide layer": lambda: scanned(1, jax.nn.relu, 2**0.5, width=512),
    "an infinite slope that relu leaves out": lambda: with_extra(infinite_slope(jax.nn.relu)),
    "relu, small bias": lambda: scanned(6, jax.nn.relu, 2**0.5, bias=0.05),
    # sick
    "sigmoid, 12 layers": lambda: sick(
        scanned(12, jax.nn.sigmoid, 1.0), "vanishing", "hidden", *VANISHED
    ),
    "tanh, 20 layers, too small": lambda: sick(
        scanned(20, jnp.tanh, 0.5), "vanishing", "hidden", *VANISHED
    ),
    "relu, 20 layers, too small": lambda: sick(
        scanned(20, jax.nn.relu, 0.7), "vanishing", "hidden", *VANISHED
    ),
    "relu, 20 layers, too large": lambda: sick(
        scanned(20, jax.nn.relu, 3.0), "exploding", "hidden", *VANISHED
    ),
    "linear, 10 layers, too large": lambda: sick(
        scanned(10, lambda h: h, 4.0), "exploding", "hidden", *VANISHED
    ),
    "tanh, N(0, 1) at width 512": lambda: sick(
        scanned(3, jnp.tanh, 512**0.5, width=512), "saturated", "/", "exploding"
    ),
    "sigmoid, N(0, 1) at width 512": lambda: sick(
        scanned(3, jax.nn.sigmoid, 512**0.5, width=512), "saturated", "/", "exploding"
    ),
    "dead relus by their bias": lambda: sick(
        scanned(2, jax.nn.relu, 2**0.5, bias=-5.0), "dead_units", "/", "vanishing", "rank_collapse"
    ),
    "linen dead relus": lambda: sick(
        linen(Linen(2, bias_init=nn.initializers.constant(-6.0)), flat()),
        "dead_units", "Dense_0/relu", "vanishing", "rank_collapse",
    ),
    "elman, 40 steps, exploding": lambda: sick(
        recurrent(40, lambda h: h, 1.4), "exploding", "w", *VANISHED
    ),
    "elman, 40 steps, vanishing": lambda: sick(
        recurrent(40, jnp.tanh, 0.6), "vanishing", "w", *VANISHED
    ),
    "linen sigmoid, 7 layers": lambda: sick(
        linen(Linen(7, nn.sigmoid, nn.initializers.glorot_normal()), flat()),
        "vanishing", "Dense_0", *VANISHED,
    ),
    "linen relu, std 0.001": lambda: sick(
        linen(Linen(5, kernel_init=small), flat()), "vanishing", "Dense_0", *VANISHED
    ),
    "batch norm, 100 layers": lambda: sick(
        scanned(100, lambda h: jax.nn.relu(standardised(h)), 1.0), "exploding", "hidden", *VANISHED
    ),
    "linen cnn, too small": lambda: sick(
        linen(Conv(8, 0.1), images()), "vanishing", "Conv_0", *VANISHED
    ),
    "linen cnn, too large": lambda: sick(
        linen(Conv(8, 20.0), images()), "exploding", "Conv_0", *VANISHED
    ),
    "attention without skips": lambda: sick(
        linen(Transformer(6, skip=False), tokens()), "rank_collapse", "", "vanishing", "exploding",
        "forward_drift",
    ),
    "a branch scaled to nothing": lambda: sick(
        linen(Transformer(1, branch=1e-9), tokens()), "vanishing", "DotProductAttention_0"
    ),
    "nnx N(0, 1)": lambda: sick(
        of_nnx(4, textbook, nnx.tanh), "saturated", "/tanh", "exploding"
    ),
    "nnx sigmoid, 7 layers": lambda: sick(
        of_nnx(7, nn.initializers.lecun_normal(), nnx.sigmoid), "vanishing", "layers[0]", *VANISHED
    ),
    "equinox sigmoid, 7 layers": lambda: sick(
        equinox(7, jax.nn.sigmoid), "vanishing", "layers[0]", *VANISHED
    ),
    "equinox, ten times too large": lambda: sick(
        equinox(5, jax.nn.relu, 10.0), "exploding", "layers[0]", *VANISHED
    ),
    "a forgotten stop_gradient": lambda: with_extra(stopped),
    "an unused head": lambda: with_extra(unused),
    "a nan born in a log": lambda: with_extra(born_nan),
    "an infinite slope": lambda: sick(
        with_extra(infinite_slope(lambda x: jnp.maximum(x, 0))), "non_finite", "w0/"
    ),
    "a step that replaces the weights": lambda: sick(
        with_extra(stepped(1e4)), "update_ratio", "w"
    ),
    "a norm of one number": lambda: with_extra(normed_number),
    "steps that bfloat16 rounds away": lambda: with_extra(rounded),
    "growing biases": lambda: growing(8),
    "constant kernels": lambda: constant(64),
    "a softmax of a softmax": lambda: twice(),
}  # fmt: skip
