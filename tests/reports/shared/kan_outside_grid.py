"""A Kolmogorov-Arnold network whose inputs lie outside of the grid of its splines."""

import jax
import jax.numpy as jnp
import numpy as np

CASE = {
    "source": "KindXiaoming/pykan#142, #71 and #385",
    "symptom": "the splines have no effect for inputs beyond [-1, 1]; only the base part is fitted",
    "truth": "every B-spline is 0 outside of its grid, and so are the gradients of all coefficients "
    "of the first layer and of nearly all of the second. At the basis (line 29). Fix: scale the inputs into "
    "the grid (or let the grid follow them).",
    "expect": r"dead_gradient|dead_units",
}
GRID = jnp.linspace(-1 - 3 * 0.4, 1 + 3 * 0.4, 12)


def basis(x):
    x = x[..., None]
    b = ((x >= GRID[:-1]) & (x < GRID[1:])).astype(x.dtype)
    for k in (1, 2, 3):
        left = (x - GRID[: -k - 1]) / (GRID[k:-1] - GRID[: -k - 1]) * b[..., :-1]
        right = (GRID[k + 1 :] - x) / (GRID[k + 1 :] - GRID[1:-k]) * b[..., 1:]
        b = left + right
    return b


def layer(params, x):
    spline = jnp.einsum("nik,iko->no", basis(x), params["coefficients"])  # fault
    return jax.nn.silu(x) @ params["base"] + spline


def _make(scale):
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = ((3, 16), (16, 1))
    params = [
        {
            "base": jax.random.normal(keys[2 * i], (a, b)) / a**0.5,
            "coefficients": 0.1 * jax.random.normal(keys[2 * i + 1], (a, 8, b)),
        }
        for i, (a, b) in enumerate(shapes)
    ]
    x = jax.random.uniform(keys[4], (64, 3), minval=20.0, maxval=60.0)
    y = jnp.sin(x[:, :1] / 5)

    def loss(params, x, y):
        h = layer(params[0], (x - 40.0) / 20.0 if scale else x)
        return jnp.mean((layer(params[1], h) - y) ** 2)

    return loss, params, (x, y)


def make_loss():
    return _make(False)


def make_fixed():
    return _make(True)


def shows(value, grads):
    return not np.any(grads[0]["coefficients"]) and np.any(grads[0]["base"])
