"""Targets that are nan where they are missing, masked out after the loss (Linen)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "pytorch/pytorch#64305 (also #4132, BLAST-AI-ML/synapse#237)",
    "symptom": "the loss is finite, all gradients are nan",
    "truth": "the data hold nan: (prediction - nan) ** 2 is masked afterwards, but 2 * nan * 0 is nan on "
    "the way back. In the argument y, which has nan, and at the square (line 35). Fix: mask the "
    "target before it is subtracted.",
    "expect": r"non_finite",
}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(32)(x))
        x = nn.tanh(nn.Dense(32)(x))
        return nn.Dense(3)(x)


def _make(first):
    model = Net()
    x, y = jax.random.normal(jax.random.key(1), (2, 64, 3))
    y = jnp.where(jax.random.uniform(jax.random.key(2), y.shape) < 0.1, jnp.nan, y)
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params, x, y):
        known = ~jnp.isnan(y)
        y = jnp.where(known, y, 0.0) if first else y
        error = (model.apply({"params": params}, x) - y) ** 2  # fault
        return jnp.sum(jnp.where(known, error, 0.0)) / jnp.sum(known)

    return loss, params, (x, y)


def make_loss():
    return _make(False)


def make_fixed():
    return _make(True)


def shows(value, grads):
    return np.isfinite(value) and all(np.isnan(g).any() for g in jax.tree.leaves(grads))
