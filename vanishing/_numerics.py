"""Sizes of arrays that neither overflow nor underflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Inexact, Shaped


def wide(x: Shaped[Array, "..."]) -> Inexact[Array, "..."]:
    """`x` in float32 at least, also of dtypes that JAX promotes only where it is told to.

    It has no more digits than `jax_enable_x64` allows.
    """
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    dtype = np.promote_types(x.dtype, np.float32) if inexact else np.dtype(np.float32)
    return x.astype(jax.dtypes.canonicalize_dtype(dtype))


def summary_dtype(*dtypes: Any) -> np.dtype:
    """The real dtype, float32 at least, that holds the sizes of numbers of all these dtypes."""
    double = any(jnp.finfo(d).bits == 64 for d in dtypes)
    return jax.dtypes.canonicalize_dtype(np.float64 if double else np.float32)


def whole(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` with the parts added up that JAX leaves on their devices (`unreduced` shardings)."""
    sharding = jax.typeof(x).sharding
    spec = getattr(sharding, "spec", None)
    if spec is None or not (spec.unreduced or spec.reduced):
        return x
    return jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec.partitions)))


def is_cut(x: Shaped[Array, "..."]) -> bool:
    """Does the type of `x` say that it lies in parts on several devices?

    It does with a mesh whose axes are `Explicit`; an operation that merges such axes is refused.
    """
    return is_cut_type(jax.typeof(x))


def is_cut_type(aval: Any) -> bool:
    """The same of an array's type."""
    spec = getattr(getattr(aval, "sharding", None), "spec", None) or ()
    return any(axis is not None for axis in spec)


def uncut(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` of a type that says that each device has all of it."""
    if not is_cut(x):
        return x
    return jax.reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec()))


def real(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x`, or of complex numbers their magnitudes."""
    return jnp.abs(x) if jnp.issubdtype(x.dtype, jnp.complexfloating) else x


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
    x = wide(real(x))
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0)
    scale = divisor(largest)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=axis))


def divisor(largest: Float[Array, "..."]) -> Float[Array, "..."]:
    """What to divide numbers by, whose largest magnitude is given, so that their squares are kept.

    It is 1 where the largest is 0 or not finite. XLA multiplies by its inverse, which must be a
    normal number too.
    """
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.minimum(jnp.where(usable, largest, 1.0), jnp.finfo(largest.dtype).max / 256)
