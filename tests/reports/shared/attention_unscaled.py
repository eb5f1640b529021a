"""Attention that does not divide by the root of the head's size."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "PAIR-code/tiny-transformers#71 (also delzac/cntkx#10)",
    "symptom": "attention is nearly one-hot from the start; the loss has peaks",
    "truth": "scores of standard deviation sqrt(d) = 16 saturate the softmax (median largest weight "
    "0.98). The gradient of q and k does not vanish at the start: it is 16 times too large. At the "
    "line of the softmax. Fix: divide by sqrt(d).",
    "expect": r"saturated|vanishing",
}


def _make(scale):
    keys = jax.random.split(jax.random.key(0), 6)
    d = 256
    n = lambda key: jax.random.normal(key, (d, d)) / d**0.5
    params = {name: n(key) for name, key in zip(("q", "k", "v", "o"), keys)}
    params["head"] = jax.random.normal(keys[4], (d, 8)) / d**0.5
    x = jax.random.normal(keys[5], (4, 24, d))

    def loss(params, x, y):
        q, k, v = x @ params["q"], x @ params["k"], x @ params["v"]
        weights = jax.nn.softmax(scale * (q @ k.swapaxes(1, 2)), axis=-1)
        h = (weights @ v) @ params["o"]
        logits = (x + h) @ params["head"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1))

    loss.__name__ = "unscaled" if scale == 1.0 else "scaled"
    return loss, params, (x, jax.random.randint(jax.random.key(9), (4, 24), 0, 8))


def make_loss():
    return _make(1.0)


def make_fixed():
    return _make(1 / 16)


def shows(value, grads, loss, params, args):
    x, y = args
    scale = 1.0 if loss.__name__ == "unscaled" else 1 / 16
    scores = scale * (x @ params["q"]) @ (x @ params["k"]).swapaxes(1, 2)
    top = np.asarray(jax.nn.softmax(scores, -1)).max(-1)
    print(
        "      median largest weight:",
        np.median(top),
        " |dq| / |dv|:",
        np.linalg.norm(grads["q"]) / np.linalg.norm(grads["v"]),
    )
    return np.median(top) > 0.9
