"""Weight normalisation of a layer that has an output whose weights are all 0."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "google/flax#1671, pytorch/pytorch#19126",
    "symptom": "loss finite, nan in the weights after the first update",
    "truth": "the norm of a column of zeros is 0 with slope nan; the epsilon added to the norm "
    "afterwards guards only the division. Only the gradient of layer1.v is nan: nothing of it "
    "shows in the signals. At the weight-norm line. Fix: epsilon inside the root.",
    "expect": r"non_finite",
}


def _make(norm):
    keys = jax.random.split(jax.random.key(0), 4)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {
        f"layer{i}": {"v": n(keys[i], *shape), "g": jnp.ones(shape[1])}
        for i, shape in enumerate(((12, 24), (24, 24), (24, 4)))
    }
    params["layer1"]["v"] = params["layer1"]["v"].at[:, 3].set(0.0)
    x = jax.random.normal(keys[3], (32, 12))

    def loss(params, x, y):
        for i in range(3):
            v, g = params[f"layer{i}"]["v"], params[f"layer{i}"]["g"]
            x = x @ (g * v / norm(v))
            x = jax.nn.relu(x) if i < 2 else x
        return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(len(y)), y])

    return loss, params, (x, jnp.arange(32) % 4)


def make_loss():
    return _make(lambda v: jnp.sqrt(jnp.sum(v**2, axis=0)) + 1e-8)  # fault


def make_fixed():
    return _make(lambda v: jnp.sqrt(jnp.sum(v**2, axis=0) + 1e-12))


def shows(value, grads):
    return np.isfinite(value) and np.isnan(grads["layer1"]["v"]).any()
