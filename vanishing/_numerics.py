"""Sizes of arrays that neither overflow nor underflow."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Shaped


def wide(x: Shaped[Array, "..."]) -> Inexact[Array, "..."]:
    """`x` in float32 at least, or as it is where it is complex."""
    kept = jnp.issubdtype(x.dtype, jnp.inexact) and jnp.finfo(x.dtype).bits >= 32
    return x if kept else x.astype(jnp.float32)


def norm(
    x: Inexact[Array, "..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """L2 norm over `axis` (by default all), also where the squares leave the range of the dtype.

    In float32 the square of 1e-25 is 0 and that of 1e25 is inf; dividing by the largest magnitude
    first keeps both. The norm is computed in float32 at least, is 0 for x = 0, and inf or nan where
    x has such elements.

    >>> import jax.numpy as jnp
    >>> print(f"{norm(jnp.array([3e-25, 4e-25])):.1e}")
    5.0e-25
    """
    x = jnp.abs(wide(x))
    largest = jnp.max(x, axis=axis, keepdims=True, initial=0.0)
    scale = divisor(largest)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=axis))


def divisor(largest: Float[Array, "..."]) -> Float[Array, "..."]:
    """What to divide numbers by, whose largest magnitude is given, so that their squares are kept.

    It is 1 where the largest is 0 or not finite. XLA multiplies by its inverse, which must be a
    normal number too.
    """
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.minimum(jnp.where(usable, largest, 1.0), jnp.finfo(largest.dtype).max / 256)
