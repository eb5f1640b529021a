"""Sizes of arrays and of their differences, in float64 whatever the arithmetic of a network."""

import jax
import jax.numpy as jnp
import numpy as np


def rms(values: jax.Array | np.ndarray) -> np.float64:
    """Root mean square, in NumPy's float64 whatever the arithmetic of the network.

    Divided by the largest entry before they are squared, tiny entries do not underflow.
    """
    entries = np.asarray(values, np.float64)
    largest = np.max(np.abs(entries), initial=0.0)
    scale = largest if 0 < largest < np.inf else np.float64(1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.float64(scale * np.sqrt(np.mean((entries / scale) ** 2)))


def difference(actual: jax.Array | np.ndarray, expected: jax.Array | np.ndarray) -> float:
    """The largest difference, over the largest finite size of the two; 0 where both are infinite.

    Numbers under the smallest normal one have fewer digits, and are compared with that. It is inf
    where one of the two is not finite and the other is another number.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same, sizes = (a == b) | (np.isnan(a) & np.isnan(b)), np.abs(np.stack([a, b]))
    smallest = float(jnp.finfo(actual.dtype).tiny)
    largest = np.max(sizes, initial=smallest, where=np.isfinite(sizes))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b)).max() / largest
    return float("inf") if np.isnan(apart) else float(apart)
