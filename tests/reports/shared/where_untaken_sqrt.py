"""A feature map that is linear under 1 and a root above it, on inputs that are 0 for many."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "jax-ml/jax#5798 (also #1052, #347; JAX FAQ 'Gradients contain NaN where using where')",
    "symptom": "the loss is finite, every gradient below one line is nan from the first step",
    "truth": "jnp.where(h > 1, jnp.sqrt(h), h): the root's slope is inf at h = 0, where the other "
    "branch is taken, and 0 * inf is nan. At the line of compress(), op sqrt. Fix: a second where "
    "inside, so that the root never sees 0 (the 'double where').",
    "expect": r"non_finite",
}


def _make(compress):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "encoder": 0.5 * jax.random.normal(keys[0], (8, 32)),
        "head": 0.2 * jax.random.normal(keys[1], (32, 1)),
    }

    def loss(params, x, y):
        h = jnp.maximum(x @ params["encoder"], 0.0)
        z = compress(h)
        return jnp.mean((z @ params["head"] - y) ** 2)

    x = jax.random.normal(keys[2], (32, 8))
    return loss, params, (x, x[:, :1])


def make_loss():
    return _make(lambda h: jnp.where(h > 1, jnp.sqrt(h), h))  # fault


def make_fixed():
    return _make(lambda h: jnp.where(h > 1, jnp.sqrt(jnp.where(h > 1, h, 1.0)), h))


def shows(value, grads):
    return np.isfinite(value) and np.isnan(grads["encoder"]).any()
