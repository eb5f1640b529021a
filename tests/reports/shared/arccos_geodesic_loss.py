"""Angular error of predicted directions; the last layer begins at 0, so that some are exact."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "pytorch/pytorch#8069",
    "symptom": "nan gradient when the prediction agrees with the target",
    "truth": "arccos has slope -inf at 1, which a cosine clipped to [-1, 1] reaches; times the 0 "
    "slope of the cosine there it is nan. At the arccos line. Fix: clip to 1 - 1e-6 (or use atan2, "
    "or 1 - cosine).",
    "expect": r"non_finite",
}


def _make(edge):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w0": 0.3 * jax.random.normal(keys[0], (12, 32)),
        "w1": 0.2 * jax.random.normal(keys[1], (32, 32)),
        "out": jnp.zeros((32, 3)),
        "out_bias": jnp.array([1.0, 0.0, 0.0]),
    }
    x = jax.random.normal(keys[2], (16, 12))
    target = jnp.eye(3)[jnp.arange(16) % 3]

    def loss(params, x, target):
        h = jnp.tanh(x @ params["w0"])
        h = jnp.tanh(h @ params["w1"])
        v = h @ params["out"] + params["out_bias"]
        v = v / jnp.sqrt(jnp.sum(v**2, -1, keepdims=True) + 1e-12)
        cosine = jnp.clip(jnp.sum(v * target, -1), -edge, edge)
        return jnp.mean(jnp.arccos(cosine))  # fault

    return loss, params, (x, target)


def make_loss():
    return _make(1.0)


def make_fixed():
    return _make(1 - 1e-6)


def shows(value, grads):
    return np.isfinite(value) and not np.isfinite(grads["out_bias"]).all()
