"""Reported faults of custom derivative rules and of initialisation, and one that was none."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.reports.report import Report


def norm(tree):
    return float(optax.global_norm(tree))


# A product of matrix and vector with its own rule, in a chain.


def _product(vector_slope):
    @jax.custom_vjp
    def product(matrix, vector):
        return matrix @ vector

    def forward(matrix, vector):
        return product(matrix, vector), (matrix, vector)

    def backward(saved, slope):
        matrix, vector = saved
        return jnp.outer(slope, vector), vector_slope(matrix, vector, slope)

    product.defvjp(forward, backward)
    return product


def _operator_network(product):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": jax.random.normal(keys[0], (32, 12)) / 12**0.5,
        "second": jax.random.normal(keys[1], (32, 32)) / 32**0.5,
        "third": jax.random.normal(keys[2], (3, 32)) / 32**0.5,
        "bias": jnp.zeros(3),
    }
    x = jax.random.normal(jax.random.key(1), (32, 12))
    y = jnp.sin(x[:, :3])

    def predict(params, x):
        h = jnp.tanh(product(params["first"], x))
        h = jnp.tanh(product(params["second"], h))
        return product(params["third"], h) + params["bias"]

    def loss(params, x, y):
        return jnp.mean((jax.vmap(predict, (None, 0))(params, x) - y) ** 2)

    return loss, params, (x, y)


def vjp_without_vector():
    """The rule leaves out the slope to the vector."""

    def vector_slope(matrix, vector, slope):
        return jnp.zeros_like(vector)  # fault: vjp_without_vector

    return _operator_network(_product(vector_slope))


def vjp_without_vector_fixed():
    """The rule gives both slopes."""
    return _operator_network(_product(lambda matrix, vector, slope: matrix.T @ slope))


# A stack of projections to heads, whose kernels have three axes.


class Heads(nn.Module):
    draw: object

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64, name="enter")(x)
        for i in range(10):
            kernel = self.param(f"kernel{i}", self.draw, (64, 8, 8))
            bias = self.param(f"bias{i}", nn.initializers.zeros, (8, 8))
            h = jnp.einsum("bd,dhk->bhk", x, kernel) + bias  # fault: fans_of_heads
            x = nn.gelu(h).reshape(len(x), 64)
        return nn.Dense(6, name="leave")(x)


def _heads(draw):
    model = Heads(draw)
    x = jax.random.normal(jax.random.key(1), (48, 20))
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, jnp.argmax(x[:, :6], -1))


def fans_of_heads():
    """The initialiser takes (width, heads, size) for a convolution."""
    return _heads(nn.initializers.he_normal())  # fault: fans_of_heads


def fans_of_heads_fixed():
    """The initialiser is told which axes are in and out."""
    return _heads(nn.initializers.variance_scaling(2.0, "fan_in", "normal", 0, (1, 2)))


# Layers that choose among the outputs before them, by a relu of zeros.


class Choice(nnx.Module):
    def __init__(self, count, draw, rngs):
        self.norm = nnx.RMSNorm(32, rngs=rngs)
        self.weigh = nnx.Linear(32, count, use_bias=False, kernel_init=draw, rngs=rngs)

    def __call__(self, past):
        weights = nnx.relu(self.weigh(self.norm(past[-1])))  # fault: relu_of_zeros
        return jnp.einsum("bn,bnd->bd", weights, jnp.stack(past, -2))


class Crossing(nnx.Module):
    def __init__(self, draw, rngs):
        self.enter = nnx.Linear(10, 32, rngs=rngs)
        self.choices = nnx.List([Choice(i + 1, draw, rngs) for i in range(3)])
        self.blocks = nnx.List([nnx.Linear(32, 32, rngs=rngs) for _ in range(3)])
        self.leave = nnx.Linear(32, 5, rngs=rngs)

    def __call__(self, x):
        past = [jnp.tanh(self.enter(x))]
        for choose, block in zip(self.choices, self.blocks, strict=True):
            chosen = past[-1] + choose(past)
            past = [*past, past[-1] + jnp.tanh(block(chosen))]
        return self.leave(past[-1])


def _crossing(draw):
    graph, params = nnx.split(Crossing(draw, nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (64, 10))

    def loss(params, x, y):
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (x, jnp.argmax(x[:, :5], -1))


def relu_of_zeros():
    """A relu behind a layer of zeros without bias."""
    return _crossing(nnx.initializers.zeros)  # fault: relu_of_zeros


def relu_of_zeros_fixed():
    """The layer begins small."""
    return _crossing(nnx.initializers.normal(0.05))


# A healthy one: low-rank additions of which one half begins at zero.


class LowRank(eqx.Module):
    down: jax.Array
    up: jax.Array

    def __init__(self, width, out, key):
        self.down = jax.random.normal(key, (4, width)) / width**0.5
        self.up = jnp.zeros((out, 4))

    def __call__(self, layer, x):
        return layer(x) + 2 * self.up @ (self.down @ x)


def lora_zero_half():
    """A frozen network with low-rank additions, whose upper halves are zero."""
    keys = jax.random.split(jax.random.key(0), 6)
    frozen = [eqx.nn.Linear(16, 48, key=keys[0]), eqx.nn.Linear(48, 48, key=keys[1])]
    frozen.append(eqx.nn.Linear(48, 4, key=keys[2]))
    params = [LowRank(16, 48, keys[3]), LowRank(48, 48, keys[4]), LowRank(48, 4, keys[5])]
    weights, static = eqx.partition(frozen, eqx.is_inexact_array)
    x = jax.random.normal(jax.random.key(1), (48, 16))

    def loss(params, weights, x, y):
        def predict(x):
            first, second, third = eqx.combine(weights, static)
            h = jax.nn.gelu(params[0](first, x))
            return params[2](third, jax.nn.gelu(params[1](second, h)))

        logits = jax.vmap(predict)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, params, (weights, x, jnp.argmax(x[:, :4], -1))


REPORTS = {
    "vjp_without_vector": Report(
        source="jax-ml/jax#17496",
        symptom="with a custom rule for matrix times vector only the last matrix gets a gradient",
        truth="the rule returns zeros for the vector, through which alone the gradient reaches the "
        "layers before. At those zeros. Return matrix.T @ slope.",
        kinds=("dead_gradient", "vanishing"),
        make=vjp_without_vector,
        fixed=vjp_without_vector_fixed,
        shows=lambda value, grads: norm(grads["first"]) == 0 and norm(grads["third"]) > 1e-3,
        params=r"first|second",
        remedy=r"custom|vjp|rule|backward|derivative|zero|cotangent|stop_gradient",
    ),
    "fans_of_heads": Report(
        source="keras-team/keras#22789",
        symptom="rank-3 kernels of attention projections are drawn with the wrong variance",
        truth="a kernel of (width, heads, size) is taken for a convolution over width positions "
        "with heads inputs: fan-in 512 and not 64, every layer shrinks signal and gradient by "
        "sqrt(8). At the initialiser. Tell it the axes.",
        kinds=("vanishing", "forward_drift"),
        make=fans_of_heads,
        fixed=fans_of_heads_fixed,
        shows=lambda value, grads: norm(grads["enter"]["kernel"]) < 1e-3,
        remedy=r"init|fan|axis|axes|scale|gain|variance|norm|residual|skip",
    ),
    "relu_of_zeros": Report(
        source="lucidrains/deep-cross-attention#2",
        symptom="a zero-initialised layer before a relu never moves, the block does nothing",
        truth="the layer has no bias and begins at zero, so the relu stands at exactly 0, where "
        "its slope is 0: no gradient, ever. At the relu. Begin small, or take another activation.",
        kinds=("dead_gradient", "dead_units"),
        make=relu_of_zeros,
        fixed=relu_of_zeros_fixed,
        shows=lambda value, grads: norm(grads["choices"]) == 0,
        params=r"weigh|choices",
        remedy=r"init|zero|small|random|activation|leaky|gelu|silu|softplus|bias|relu",
    ),
    "lora_zero_half": Report(
        source="microsoft/LoRA#59 (also microsoft/LoRA#98)",
        symptom="one of the two low-rank matrices is all zeros, how can it learn",
        truth="nothing is broken: the matrix of zeros gets a gradient at once, and the other one "
        "from the second step on.",
        kinds=(),
        make=lora_zero_half,
        fixed=None,
        shows=lambda value, grads: False,
    ),
}
