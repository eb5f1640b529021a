"""A radiance field whose density is below 0 for every sample of every ray (Flax NNX)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

CASE = {
    "source": "sanowar-raihan/nerf-meta#3, kwea123/nerf_pl#51, bmild/nerf#29",
    "symptom": "the picture is white (empty) from the first step on; the loss does not change",
    "truth": "relu of a density that is under 0 everywhere is 0 with slope 0: every ray shows the "
    "background and every gradient is exactly 0. At the relu of the density (line 34). "
    "Fix: softplus(density - 1).",
    "expect": r"dead_units|dead_gradient",
}


class Field(nnx.Module):
    def __init__(self, density, rngs):
        self.first = nnx.Linear(18, 32, rngs=rngs)
        self.second = nnx.Linear(32, 32, rngs=rngs)
        self.third = nnx.Linear(32, 32, rngs=rngs)
        self.sigma = nnx.Linear(32, 1, rngs=rngs)
        self.colour = nnx.Linear(32, 3, rngs=rngs)
        self.density = density

    def __call__(self, points, steps):
        waves = jnp.concatenate(
            [f(points * 2**i) for i in range(3) for f in (jnp.sin, jnp.cos)], -1
        )
        h = jax.nn.relu(self.first(waves))
        h = jax.nn.relu(self.second(h))
        h = jax.nn.relu(self.third(h))
        raw = self.sigma(h)[..., 0]
        rgb = jax.nn.sigmoid(self.colour(h))
        thickness = self.density(raw) * steps  # fault
        alpha = 1 - jnp.exp(-thickness)
        clear = jnp.exp(-(jnp.cumsum(thickness, -1) - thickness))
        weight = alpha * clear
        return jnp.sum(weight[..., None] * rgb, -2) + 1 - jnp.sum(weight, -1, keepdims=True)


SEED = 14  # one of the unlucky ones: 1 in 15


def _make(density):
    graph, params = nnx.split(Field(density, nnx.Rngs(SEED)))
    directions = jax.random.normal(jax.random.key(1), (24, 1, 3)) * 0.3 + jnp.array([0, 0, 1.0])
    points = directions * jnp.linspace(0.5, 1.5, 12)[:, None]
    pixels = jax.random.uniform(jax.random.key(2), (24, 3))

    def loss(params, points, pixels):
        return jnp.mean((nnx.merge(graph, params, copy=True)(points, 1 / 12) - pixels) ** 2)

    return loss, params, (points, pixels)


def make_loss():
    return _make(jax.nn.relu)


def make_fixed():
    return _make(lambda raw: jax.nn.softplus(raw - 1))


def shows(value, grads):
    return np.isfinite(value) and not any(np.any(g) for g in jax.tree.leaves(grads))
