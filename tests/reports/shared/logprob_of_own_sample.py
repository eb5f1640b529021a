"""A policy gradient that differentiates through the sampled action."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "HorizonRobotics/alf#34",
    "symptom": "the mean of the policy is never updated, only its spread",
    "truth": "action = mean + std * noise, and log p(action) depends on action - mean: the two ways "
    "cancel exactly and the mean head's gradient is 0. At the line of the action. Fix: "
    "stop_gradient on the action.",
    "expect": r"dead_gradient",
}


def _make(sampled):
    keys = jax.random.split(jax.random.key(0), 6)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {
        "trunk": n(keys[0], 8, 32),
        "mean": {"hidden": n(keys[1], 32, 32), "out": 0.1 * n(keys[2], 32, 2)},
        "log_std": jnp.zeros(2),
    }
    x = jax.random.normal(keys[3], (64, 8))
    noise = jax.random.normal(keys[4], (64, 2))
    advantage = jax.random.normal(keys[5], (64,))

    def loss(params, x, noise, advantage):
        h = jnp.tanh(x @ params["trunk"])
        mean = jnp.tanh(h @ params["mean"]["hidden"]) @ params["mean"]["out"]
        std = jnp.exp(params["log_std"])
        action = sampled(mean + std * noise)  # fault
        log_p = -0.5 * jnp.sum(((action - mean) / std) ** 2, -1) - params["log_std"].sum()
        return -jnp.mean(advantage * log_p)

    return loss, params, (x, noise, advantage)


def make_loss():
    return _make(lambda a: a)


def make_fixed():
    return _make(jax.lax.stop_gradient)


def shows(value, grads):
    return np.linalg.norm(grads["mean"]["out"]) < 1e-6 and np.any(grads["log_std"])
