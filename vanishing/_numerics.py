"""Sizes of arrays that neither overflow nor underflow."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Inexact, Shaped

_LOW, _HIGH = 1e-24, 1e30  # between them a mean of squares in float32 has lost nothing


def wide(x: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """`x` in float32 at least, also of dtypes that JAX promotes only where it is told to."""
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return x.astype(np.promote_types(x.dtype, np.float32) if inexact else np.float32)


def whole(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` with the parts added up that JAX leaves on their devices (`unreduced` shardings)."""
    sharding = jax.typeof(x).sharding
    spec = getattr(sharding, "spec", None)
    if spec is None or not (spec.unreduced or spec.reduced):
        return x
    return jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec.partitions)))


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
    scale = _scale(largest)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=axis))


def _scale(largest: Float[Array, "..."]) -> Float[Array, "..."]:
    """What to divide by; XLA multiplies by its inverse, which must be a normal number too."""
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.minimum(jnp.where(usable, largest, 1.0), jnp.finfo(largest.dtype).max / 256)


def rms(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Root mean square of all elements, also where the squares leave the range of the dtype.

    >>> import jax.numpy as jnp
    >>> print(f"{rms(jnp.full(4, 3e-30)):.1e}")
    3.0e-30
    """

    def scaled(x):
        scale = _scale(jnp.max(jnp.abs(x), initial=0.0))
        return scale * jnp.sqrt(jnp.mean(jnp.square(x / scale)))

    def one_pass(x):
        mean_square = jnp.mean(jnp.square(x))
        kept = (mean_square > _LOW) & (mean_square < _HIGH)
        return cheap_or_fallback(kept, jnp.sqrt(mean_square), scaled, x)

    return branch_on_cpu(one_pass, scaled, wide(x))


# XLA for CPUs runs a branch when it comes to it, so that a test of a cheap answer saves a pass over
# the data. An accelerator has to bring the test's outcome to the host and wait for it, which costs
# more than the pass.
def branch_on_cpu(branching: Callable, straight: Callable, x) -> Float[Array, ""]:
    """`branching(x)` on a CPU, `straight(x)` on an accelerator; both give the same number."""
    return jax.lax.platform_dependent(x, cpu=branching, default=straight)


def cheap_or_fallback(
    usable: Bool[Array, ""], cheap: Float[Array, ""], fallback: Callable, x: Float[Array, "..."]
) -> Float[Array, ""]:
    """`cheap` if `usable`, else the expensive `fallback(x)`.

    Under `jax.vmap`, which turns a branch into both of its sides, the fallback runs only if some
    element needs it.

    >>> import jax.numpy as jnp
    >>> print(cheap_or_fallback(jnp.bool_(False), jnp.float32(1), jnp.sum, jnp.ones(3)))
    3.0
    """

    @jax.custom_batching.custom_vmap
    def choose(usable, cheap, x):
        return jax.lax.cond(usable, lambda x: cheap, fallback, x)

    @choose.def_vmap
    def _(size, batched, usable, cheap, x):
        axes = tuple(0 if is_batched else None for is_batched in batched)

        def one_by_one(x):
            one = lambda usable, cheap, x: jnp.where(usable, cheap, fallback(x))  # noqa: E731
            return jax.vmap(one, axes, axis_size=size)(usable, cheap, x)

        values = jnp.broadcast_to(cheap, (size,))
        return jax.lax.cond(jnp.all(usable), lambda x: values, one_by_one, x), True

    return choose(usable, cheap, x)
