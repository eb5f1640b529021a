"""A network whose weights another network makes from a goal, drawn too large (Equinox)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "Unity-Technologies/ml-agents#4990, rabeehk/hyperformer#1 (also "
    "AUTOMATIC1111/stable-diffusion-webui#4350)",
    "symptom": "training with a hypernetwork is far worse than without; wrecked from the first step on",
    "truth": "the last layer of the hypernetwork is drawn as an ordinary layer: the weights that it "
    "makes have a standard deviation of 1.4 and not sqrt(2 / 32), so that signal and gradient grow "
    "5.7 times a layer. In `make` (line 36). Fix: draw that layer sqrt(1 / 32) times smaller.",
    "expect": r"exploding|forward_drift",
}
WIDTH, LAYERS = 32, 6


class Hyper(eqx.Module):
    goal: eqx.nn.Linear
    make: eqx.nn.Linear
    read: eqx.nn.Linear

    def __init__(self, scale, key):
        keys = jax.random.split(key, 3)
        self.goal = eqx.nn.Linear(5, 24, key=keys[0])
        make = eqx.nn.Linear(24, LAYERS * WIDTH * WIDTH, use_bias=False, key=keys[1])
        draw = jax.random.normal(keys[1], make.weight.shape) * scale * (2 / 24) ** 0.5
        self.make = eqx.tree_at(lambda m: m.weight, make, draw)
        self.read = eqx.nn.Linear(WIDTH, 1, key=keys[2])

    def __call__(self, goal, x):
        code = jax.nn.relu(self.goal(goal))
        code = code / jnp.sqrt(jnp.mean(code**2) + 1e-6)
        weights = self.make(code).reshape(LAYERS, WIDTH, WIDTH)
        for i in range(LAYERS):
            x = jax.nn.relu(weights[i] @ x)
        return self.read(x)[0]


def _make(scale):
    params, static = eqx.partition(Hyper(scale, jax.random.key(0)), eqx.is_inexact_array)
    goal = jax.random.normal(jax.random.key(1), (16, 5))
    x = jax.random.normal(jax.random.key(2), (16, WIDTH))

    def loss(params, goal, x):
        out = jax.vmap(eqx.combine(params, static))(goal, x)
        return jnp.mean((out - x[:, 0]) ** 2)

    return loss, params, (goal, x)


def make_loss():
    return _make(1.0)


def make_fixed():
    return _make(WIDTH**-0.5)


def shows(value, grads):
    print(
        "      gradients: goal",
        np.linalg.norm(grads.goal.weight),
        " read",
        np.linalg.norm(grads.read.weight),
    )
    return value > 1e5
