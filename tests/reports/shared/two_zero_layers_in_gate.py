"""A gate on a residual stream; both of its layers begin at 0."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "yz93/LAVT-RIS#25 (also lllyasviel/ControlNet#510)",
    "symptom": "the gate never opens; its weights stay 0 for the whole training",
    "truth": "gate.w1 and gate.w2 are both 0 with a ReLU between: each one's gradient is a multiple "
    "of the other's output or weight, so both are exactly 0 for ever. Fix: only the last layer "
    "begins at 0.",
    "expect": r"dead_gradient",
}


def _make(first):
    keys = jax.random.split(jax.random.key(0), 4)
    n = lambda key, *shape: jax.random.normal(key, shape) / shape[0] ** 0.5
    params = {
        "stem": n(keys[0], 12, 24),
        "gate": {"w1": first * n(keys[1], 24, 24), "w2": jnp.zeros((24, 24))},
        "body": n(keys[2], 24, 24) * 2**0.5,
        "head": n(keys[3], 24, 3),
    }
    x = jax.random.normal(jax.random.key(8), (32, 12))

    def loss(params, x, y):
        h = jnp.tanh(x @ params["stem"])
        gate = jnp.tanh(jax.nn.relu(h @ params["gate"]["w1"]) @ params["gate"]["w2"])  # fault
        h = h + gate * h
        h = jax.nn.relu(h @ params["body"])
        return -jnp.mean(jax.nn.log_softmax(h @ params["head"])[jnp.arange(len(y)), y])

    return loss, params, (x, jnp.arange(32) % 3)


def make_loss():
    return _make(0.0)


def make_fixed():
    return _make(1.0)


def shows(value, grads):
    gate = grads["gate"]
    return not np.any(gate["w1"]) and not np.any(gate["w2"]) and np.any(grads["stem"])
