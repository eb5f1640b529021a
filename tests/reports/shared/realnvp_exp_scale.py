"""Affine couplings whose log-scale is whatever a network puts out."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "ELIFE-ASU/INNLab#7 (also VincentStimper/normalizing-flows#47)",
    "symptom": "the likelihood is astronomically large or nan at the first step",
    "truth": "exp of an unbounded scale, layer after layer: the values grow doubly fast and "
    "overflow. At exp(s) in the couplings. Fix: bound it, clip * tanh(s / clip), and begin the last "
    "layer of each net at 0.",
    "expect": r"exploding|non_finite|forward_drift",
}


def _make(bound):
    keys = iter(jax.random.split(jax.random.key(0), 64))
    n = lambda *shape: jax.random.normal(next(keys), shape) * (2 / shape[0]) ** 0.5
    params = [{"hidden": n(6, 64), "scale": n(64, 6), "shift": n(64, 6)} for _ in range(8)]
    x = jax.random.normal(next(keys), (64, 12))

    def loss(params, x):
        log_det = 0.0
        for p in params:
            a, b = jnp.split(x, 2, axis=-1)
            h = jax.nn.relu(a @ p["hidden"])
            s = bound(h @ p["scale"])
            b = b * jnp.exp(s) + h @ p["shift"]  # fault
            log_det = log_det + s.sum(-1)
            x = jnp.concatenate([b, a], -1)
        return jnp.mean(0.5 * jnp.sum(x**2, -1) - log_det)

    return loss, params, (x,)


def make_loss():
    return _make(lambda s: s)


def make_fixed():
    return _make(lambda s: 0.3 * jnp.tanh(0.1 * s))


def shows(value, grads):
    total = np.sqrt(
        sum(np.sum(np.square(np.asarray(g, np.float64))) for g in jax.tree.leaves(grads))
    )
    print("      loss", value, "gradient norm", total)
    return not np.isfinite(total) or total > 1e6
