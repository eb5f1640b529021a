"""A network in float16 without a loss scale."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "engichang1467/Open-Rig3R#35",
    "symptom": "no error and no nan; the loss flattens early, as if it had converged",
    "truth": "the error signal is about 1e-7, under the smallest float16: it is rounded to 0 on its "
    "way to the first layers, which get no gradient. (In float32 the same network's gradient is "
    "fine.) Fix: scale the loss (or bfloat16).",
    "expect": r"dead_gradient|vanishing",
}

LAYERS, WIDTH = 8, 32


def _make(dtype, scale):
    keys = jax.random.split(jax.random.key(0), LAYERS + 2)
    n = lambda key, *shape: (jax.random.normal(key, shape) / shape[0] ** 0.5).astype(dtype)
    params = [n(k, WIDTH, WIDTH) for k in keys[:LAYERS]]
    x = jax.random.normal(keys[-1], (256, WIDTH)).astype(dtype)
    y = 1e-3 * jnp.tanh(x.astype(jnp.float32))

    def loss(params, x, y):
        for w in params:
            x = jnp.tanh(x @ w)
        error = 1e-3 * x.astype(jnp.float32) - y
        return scale * jnp.mean(error**2)

    return loss, params, (x, y)


def make_loss():
    return _make(jnp.float16, 1.0)


def make_fixed():
    return _make(jnp.float16, 2.0**20)


def shows(value, grads):  # also compares with float32
    zeros = [float(np.mean(np.asarray(g) == 0)) for g in grads]
    loss, params, args = _make(jnp.float32, 1.0)
    whole = [float(np.linalg.norm(g)) for g in jax.grad(loss)(params, *args)]
    print(
        "      zeros in float16 by layer:", np.round(zeros, 2), " float32 norms:", np.array(whole)
    )
    return zeros[0] == 1 and whole[0] > 0.1 * whole[-1]
