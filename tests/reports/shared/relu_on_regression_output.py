"""A regression whose only output goes through a ReLU, and begins negative."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

CASE = {
    "source": "ProteomicsML/ProteomicsML#203 (also jvargasmu/population_estimation#68, keras-team/keras#3687)",
    "symptom": "predicts 0 for everything, the loss does not move",
    "truth": "the last pre-activation is negative for every example, so the last ReLU is off and no "
    "parameter has a gradient. At the ReLU on the output. Fix: no activation (or softplus) there.",
    "expect": r"dead_units|dead_gradient",
}


class Net(nnx.Module):
    def __init__(self, output, rngs):
        self.a = nnx.Linear(10, 32, rngs=rngs)
        self.b = nnx.Linear(32, 32, rngs=rngs)
        self.c = nnx.Linear(32, 1, rngs=rngs)
        self.c.bias[...] = jnp.full(1, -4.0)
        self.output = output

    def __call__(self, x):
        x = nnx.relu(self.a(x))
        x = nnx.relu(self.b(x))
        return self.output(self.c(x))  # fault


def _make(output):
    graph, params = nnx.split(Net(output, nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (32, 10))

    def loss(params, x):
        return jnp.mean((nnx.merge(graph, params, copy=True)(x) - 3.0) ** 2)

    return loss, params, (x,)


def make_loss():
    return _make(nnx.relu)


def make_fixed():
    return _make(lambda x: x)


def shows(value, grads):
    return not any(np.any(g) for g in jax.tree.leaves(grads))
