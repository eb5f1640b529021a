"""The log-probability of a squashed Gaussian action, found by inverting a clipped tanh."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "ray-project/ray#14878 (fixed by #65036)",
    "symptom": "log-probabilities of -1e5, exploding gradients and then nan, once the policy is sure",
    "truth": "the policy's mean (about 12) saturates tanh, so that arctanh(clip(action)) gives 7.3 "
    "instead of 12; the gaussian's log-probability of that is huge, and so is its gradient at the "
    "head of the mean. Places: tanh saturated, the clip + arctanh line. Fix: keep the sample from "
    "before tanh, and softplus for the correction.",
    "expect": r"exploding|saturated",
}


def _make(stable):
    keys = jax.random.split(jax.random.key(0), 4)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {
        "trunk0": n(keys[0], 8, 64) * 2**0.5,
        "trunk1": n(keys[1], 64, 64) * 2**0.5,
        "mean": {"kernel": n(keys[2], 64, 2), "bias": jnp.array([12.0, -12.0])},
        "log_std": {"kernel": 0.01 * n(keys[3], 64, 2), "bias": jnp.full(2, -3.0)},
    }
    x = jax.random.normal(jax.random.key(5), (64, 8))
    noise = jax.random.normal(jax.random.key(6), (64, 2))

    def loss(params, x, noise):
        h = jax.nn.relu(x @ params["trunk0"])
        h = jax.nn.relu(h @ params["trunk1"])
        mean = h @ params["mean"]["kernel"] + params["mean"]["bias"]
        log_std = h @ params["log_std"]["kernel"] + params["log_std"]["bias"]
        raw = mean + jnp.exp(log_std) * noise
        action = jnp.tanh(raw)  # fault
        if stable:
            log_p = -0.5 * noise**2 - log_std
            log_p -= 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))
        else:
            raw = jnp.arctanh(jnp.clip(action, -1 + 1e-6, 1 - 1e-6))
            log_p = -0.5 * ((raw - mean) / jnp.exp(log_std)) ** 2 - log_std
            log_p -= jnp.log(1 - jnp.tanh(raw) ** 2 + 1e-6)
        value = -jnp.sum((action - 0.5) ** 2, -1)
        return jnp.mean(0.2 * log_p.sum(-1) - value)

    return loss, params, (x, noise)


def make_loss():
    return _make(False)


def make_fixed():
    return _make(True)


def shows(value, grads):
    return np.linalg.norm(grads["mean"]["kernel"]) > 1e2
