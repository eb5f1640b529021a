"""Networks in float16 and bfloat16, with and without the scaling of the loss."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.clinic.patients import Patient, cross_entropy, normal, sick

BATCH, WIDTH = 32, 64
F16, BF16 = jnp.float16, jnp.bfloat16


def cast(tree, dtype):
    """All leaves in another precision."""
    return jax.tree.map(lambda w: w.astype(dtype), tree)


def weights(depth=4, gain=2**0.5, width=WIDTH, last=4):
    """He weights and no biases."""
    params = {f"w{i}": normal((width, width), i, gain * width**-0.5) for i in range(depth)}
    return params | {"head": normal((width, last), 99, width**-0.5)}


def forward(params, x, activation=jax.nn.relu):
    """A plain network."""
    for i in range(len(params) - 1):
        x = activation(x @ params[f"w{i}"])
    return x @ params["head"]


def scaled(scale=2.0**12, rate=0.1, power=0.0):
    """float16 within, float32 weights, and the loss times a scale that the update takes back."""

    def loss(params, x):
        logits = forward(cast(params, F16), x.astype(F16)).astype(jnp.float32)
        return scale * cross_entropy(logits) * 10.0**power

    def updates(grads):
        return jax.tree.map(lambda g: -rate * g / scale, grads)

    return Patient(loss, weights(), (normal((BATCH, WIDTH), 5),), updates=updates)


def pure_bfloat16(steps=6):
    """bfloat16 throughout, after a few steps of a rate that bfloat16 can hold."""
    params, x = cast(weights(), BF16), normal((BATCH, WIDTH), 5).astype(BF16)
    loss = lambda p, x: cross_entropy(forward(p, x).astype(jnp.float32))  # noqa: E731

    def step(p, _):
        return jax.tree.map(lambda w, g: w - 0.2 * g, p, jax.grad(loss)(p, x)), None

    params = jax.jit(lambda p: jax.lax.scan(step, p, None, steps)[0])(params)
    return Patient(loss, params, (x,))


class Mixed(nn.Module):
    """A residual network in bfloat16 with norms and weights of float32."""

    dtype: Any = BF16

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, dtype=self.dtype)(x)
        for _ in range(3):
            h = nn.LayerNorm(dtype=jnp.float32)(x)
            h = nn.gelu(nn.Dense(2 * WIDTH, dtype=self.dtype)(h))
            x = x + nn.Dense(WIDTH, dtype=self.dtype)(h)
        return nn.Dense(4, dtype=jnp.float32)(nn.LayerNorm(dtype=jnp.float32)(x))


def mixed():
    """A residual network in bfloat16, Linen."""
    x = normal((BATCH, 16), 5)
    params = Mixed().init(jax.random.key(0), x)["params"]
    return Patient(lambda p, x: cross_entropy(Mixed().apply({"params": p}, x)), params, (x,))


class Block(nnx.Module):
    """Attention in float16 whose softmax is in float32."""

    def __init__(self, rngs, dim=32):
        """Draw the weights."""
        make = lambda m=dim: nnx.Linear(dim, m, dtype=F16, rngs=rngs)  # noqa: E731
        self.q, self.k, self.v, self.out = make(), make(), make(), make()
        self.up, self.down = make(64), nnx.Linear(64, dim, dtype=F16, rngs=rngs)
        self.norm_a = nnx.LayerNorm(dim, dtype=jnp.float32, rngs=rngs)
        self.norm_m = nnx.LayerNorm(dim, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x):
        """A batch of sequences."""
        h = self.norm_a(x).astype(F16)
        scores = (self.q(h) @ self.k(h).swapaxes(1, 2)).astype(jnp.float32) * 32**-0.5
        x = x + self.out(jax.nn.softmax(scores).astype(F16) @ self.v(h))
        return x + self.down(nnx.gelu(self.up(self.norm_m(x).astype(F16))))


class Transformer(nnx.Module):
    """Two such blocks."""

    def __init__(self, rngs):
        """Draw the weights."""
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.head = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x):
        """A batch of sequences."""
        x = x.astype(F16)
        for block in self.blocks:
            x = block(x)
        return self.head(x.astype(jnp.float32).mean(1))


def transformer():
    """A float16 transformer in NNX with its loss scaled."""
    graph, params = nnx.split(Transformer(nnx.Rngs(0)))
    loss = lambda p, x: 1024.0 * cross_entropy(nnx.merge(graph, p, copy=True)(x))  # noqa: E731
    return Patient(loss, params, (normal((8, 12, 32), 5),))


class Conv(nn.Module):
    """Convolutions in float16 with group norms of float32."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Conv(16, (3, 3), dtype=F16, kernel_init=nn.initializers.he_normal())(x)
            x = nn.relu(nn.GroupNorm(4, dtype=jnp.float32)(x))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


def conv():
    """A small convolutional network in float16 with its loss scaled."""
    x = normal((16, 8, 8, 3), 5)
    params = Conv().init(jax.random.key(0), x)["params"]
    loss = lambda p, x: 256.0 * cross_entropy(Conv().apply({"params": p}, x))  # noqa: E731
    return Patient(loss, params, (x,))


def summed():
    """float16 weights and no scale, but the losses are summed and so the gradients are large."""
    params, x = cast(weights(3), F16), normal((BATCH, WIDTH), 5).astype(F16)
    loss = lambda p, x: BATCH * cross_entropy(forward(p, x).astype(jnp.float32))  # noqa: E731
    return Patient(loss, params, (x,))


def recurrent():
    """A gated recurrence in bfloat16 whose state is float32."""
    params = {
        "wx": normal((8, 64), 0, 8**-0.5),
        "wh": normal((32, 64), 1, 32**-0.5),
        "head": normal((32, 4), 2, 32**-0.5),
    }

    def loss(p, xs):
        half = cast(p, BF16)

        def step(h, x):
            gate, value = jnp.split(x @ half["wx"] + h.astype(BF16) @ half["wh"], 2, -1)
            gate = jax.nn.sigmoid(gate.astype(jnp.float32))
            return gate * h + (1 - gate) * jnp.tanh(value.astype(jnp.float32)), None

        h = jax.lax.scan(step, jnp.zeros((BATCH, 32)), xs.astype(BF16))[0]
        return cross_entropy(h @ p["head"])

    return Patient(loss, params, (normal((16, BATCH, 8), 5),))


def underflow():
    """A mean over many pixels in float16 without a scale: most gradients come out as 0."""
    params = cast(weights(4, last=WIDTH), F16)
    x = normal((256, WIDTH), 5).astype(F16)

    def loss(p, x):
        y = forward(p, x)
        return jnp.mean((2e-3 * (y - x)).astype(jnp.float32) ** 2)

    also = ("vanishing", "dead_gradient", "dead_units")
    return sick(Patient(loss, params, (x,)), "precision", "", *also)


def squared():
    """A norm whose squares are summed in float16: beyond 65504 there is nothing."""
    params = cast(weights(2) | {"scale": jnp.full((1, WIDTH), 100.0)}, F16)

    def loss(p, x):
        h = jax.nn.relu(x @ p["w0"]) * p["scale"]
        h = h / jnp.sqrt((h * h).sum(-1, keepdims=True) + F16(1e-3)) * WIDTH**0.5
        return cross_entropy((jax.nn.relu(h @ p["w1"]) @ p["head"]).astype(jnp.float32))

    patient = Patient(loss, params, (normal((BATCH, WIDTH), 5).astype(F16),))
    also = ("dead_gradient", "vanishing", "norm", "rank_collapse", "precision")
    return sick(patient, "non_finite", "scale", *also)


def naive_softmax():
    """exp in float16 without the largest score taken off: it overflows beyond 11."""
    params = cast({name: normal((32, 32), i, 0.35) for i, name in enumerate("qkv")}, F16)
    params["head"] = normal((32, 4), 9, 32**-0.5).astype(F16)

    def loss(p, x):
        scores = jnp.exp((x @ p["q"]) @ (x @ p["k"]).swapaxes(1, 2))
        out = (scores / scores.sum(-1, keepdims=True)) @ (x @ p["v"])
        return cross_entropy((out.mean(1) @ p["head"]).astype(jnp.float32))

    patient = Patient(loss, params, (normal((8, 12, 32), 5).astype(F16),))
    return sick(patient, "non_finite", "")


def bfloat16_overflow():
    """Forty layers of bfloat16, each of which multiplies by ten."""
    layers = normal((44, 32, 32), 0, 14.0 * 32**-0.5).astype(BF16)
    params = {"layers": layers, "head": normal((32, 4), 1, 32**-0.5).astype(BF16)}

    def loss(p, x):
        x = jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, p["layers"])[0]
        return cross_entropy((x @ p["head"]).astype(jnp.float32))

    patient = Patient(loss, params, (normal((BATCH, 32), 5).astype(BF16),))
    return sick(patient, "non_finite", "layers", "exploding", "forward_drift")


def lost_epsilon():
    """A norm in float16 whose epsilon of 1e-8 is 0, and padding rows that are all equal."""
    params = cast(weights(2), F16)

    def loss(p, x):
        h = x @ p["w0"]
        mean = h.mean(-1, keepdims=True)
        h = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + F16(1e-8))
        return cross_entropy((jax.nn.relu(h @ p["w1"]) @ p["head"]).astype(jnp.float32))

    x = normal((BATCH, WIDTH), 5).at[-5:].set(0.0).astype(F16)
    return sick(Patient(loss, params, (x,)), "non_finite", "w0", "norm")


def small_steps(dtype=BF16, rate=1e-4):
    """Steps of 1e-4 times the gradient on half precision weights, which stay where they are."""
    params = cast(weights(3), dtype)
    loss = lambda p, x: cross_entropy(forward(p, x).astype(jnp.float32))  # noqa: E731
    step = lambda grads: jax.tree.map(lambda g: -rate * g, grads)  # noqa: E731
    x = normal((BATCH, WIDTH), 5).astype(dtype)
    return sick(Patient(loss, params, (x,), updates=step), "precision", "w", "update_ratio")


def masked():
    """A mask of -1e9, which is -inf in float16, and sequences without a key."""
    params = cast({name: normal((32, 32), i, 32**-0.5) for i, name in enumerate("qkv")}, F16)
    params["head"] = normal((32, 4), 9, 32**-0.5).astype(F16)
    real = jnp.arange(12) < jnp.array([12, 8, 5, 0, 12, 3, 0, 9])[:, None]

    def loss(p, x):
        scores = (x @ p["q"]) @ (x @ p["k"]).swapaxes(1, 2) * F16(32**-0.5)
        scores = scores + jnp.where(real[:, None], 0.0, -1e9).astype(F16)
        out = jax.nn.softmax(scores) @ (x @ p["v"])
        return cross_entropy((out.mean(1) @ p["head"]).astype(jnp.float32))

    patient = Patient(loss, params, (normal((8, 12, 32), 5).astype(F16),))
    return sick(patient, "non_finite", "")


def lost_moment():
    """Adam's second moment in float16: the squares and the epsilon are both 0."""
    params, x = cast(weights(3), F16), normal((BATCH, WIDTH), 5).astype(F16)
    loss = lambda p, x: 0.01 * cross_entropy(forward(p, x).astype(jnp.float32))  # noqa: E731

    def step(grads):
        return jax.tree.map(lambda g: F16(-1e-3) * g / (jnp.sqrt(g * g) + F16(1e-8)), grads)

    patient = Patient(loss, params, (x,), updates=step)
    return sick(patient, "non_finite", "", "update_ratio", "precision")


def sigmoids():
    """Eight layers of the sigmoid in float16: the first gradients are below its smallest number."""
    params = cast(weights(8, 1.0), F16)
    loss = lambda p, x: cross_entropy(  # noqa: E731
        forward(p, x, jax.nn.sigmoid).astype(jnp.float32)
    )
    patient = Patient(loss, params, (normal((BATCH, WIDTH), 5).astype(F16),))
    return sick(patient, "vanishing", "w0", "precision", "rank_collapse", "forward_drift")


def too_large_a_scale():
    """A loss scaled by 2^24: the gradients overflow in float16."""
    return sick(scaled(2.0**24), "non_finite", "", "exploding")


def squared_error_overflow():
    """Targets of 500 and a squared error in float16, in Optax and float16 weights."""
    params, x = cast(weights(2), F16), normal((BATCH, WIDTH), 5).astype(F16)
    y = (500.0 + normal((BATCH, 4), 6)).astype(F16)
    loss = lambda p, x, y: optax.l2_loss(forward(p, x), y).mean()  # noqa: E731
    return sick(Patient(loss, params, (x, y)), "non_finite", "", "exploding")


PATIENTS = {
    "float16, loss scaled": scaled,
    "bfloat16 throughout, trained": pure_bfloat16,
    "bfloat16, linen, residual": mixed,
    "float16 transformer, nnx, loss scaled": transformer,
    "float16 convolutions, loss scaled": conv,
    "float16, losses summed": summed,
    "bfloat16 recurrence": recurrent,
    "float16 underflow": underflow,
    "float16 sum of squares": squared,
    "float16 naive softmax": naive_softmax,
    "bfloat16 overflow": bfloat16_overflow,
    "float16 norm without epsilon": lost_epsilon,
    "bfloat16 steps lost": small_steps,
    "float16 steps lost": lambda: small_steps(F16, 1e-5),
    "float16 mask of -1e9": masked,
    "float16 second moment": lost_moment,
    "float16, eight sigmoids": sigmoids,
    "float16, scale of 2^24": too_large_a_scale,
    "float16 squared error": squared_error_overflow,
}
