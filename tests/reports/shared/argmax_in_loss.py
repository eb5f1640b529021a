"""The loss compares the predicted class, found by argmax, with the label."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "google-deepmind/dm-haiku#442 (also pytorch/pytorch#1339, keras-team/keras#11157)",
    "symptom": "every gradient is 0, nothing learns",
    "truth": "argmax is piecewise constant: its derivative is 0. Fix: cross entropy of the logits. "
    "The finding names argmax and its line.",
    "expect": r"dead_gradient",
}


def _make(compare):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w0": 0.4 * jax.random.normal(keys[0], (12, 64)),
        "w1": 0.2 * jax.random.normal(keys[1], (64, 64)),
        "w2": 0.2 * jax.random.normal(keys[2], (64, 2)),
    }
    x = jax.random.normal(jax.random.key(7), (32, 12))

    def loss(params, x, y):
        h = jax.nn.relu(x @ params["w0"])
        h = jax.nn.relu(h @ params["w1"])
        return compare(h @ params["w2"], y)

    return loss, params, (x, (x[:, 0] > 0).astype(jnp.int32))


def make_loss():
    def compare(logits, y):
        predicted = jnp.argmax(logits, axis=-1)  # fault
        return jnp.mean((predicted - y).astype(jnp.float32) ** 2)

    return _make(compare)


def make_fixed():
    return _make(lambda t, y: -jnp.mean(jax.nn.log_softmax(t)[jnp.arange(len(y)), y]))


def shows(value, grads):
    return not any(np.any(g) for g in jax.tree.leaves(grads))
