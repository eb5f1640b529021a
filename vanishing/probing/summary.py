"""Summaries of a signal: a few numbers of an array that neither overflow nor underflow."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact

from vanishing._numerics import branch_on_cpu, cheap_or_fallback, real, rms, whole, wide

SATURATED = 0.01  # of the largest slope


class ForwardSummary(NamedTuple):
    """The signal at each row; nan where it did not run, or where an entry was not wanted."""

    mean: Float[Array, "..."]
    rms: Float[Array, "..."]  # root of the mean square
    largest: Float[Array, "..."]  # largest magnitude
    zeros: Float[Array, "..."]  # fraction of exact zeros, 0 to 1
    non_finite: Float[Array, "..."]  # count of inf and nan
    saturated: Float[Array, "..."]  # fraction with a slope under 1 % of its largest
    dead_units: Float[Array, "..."]  # fraction of units that are 0 for the whole batch
    similarity: Float[Array, "..."]  # mean cosine between two examples


class BackwardSummary(NamedTuple):
    """The cotangent at each row, dL/dh; nan likewise."""

    rms: Float[Array, "..."]
    largest: Float[Array, "..."]
    zeros: Float[Array, "..."]
    non_finite: Float[Array, "..."]


def count_non_finite(x: Float[Array, "..."], rms: Float[Array, ""]) -> Float[Array, ""]:
    """How many elements are inf or nan, given their `rms`, which is finite where there are none."""

    def count(x):
        return jnp.sum(~jnp.isfinite(x), dtype=x.dtype)

    def count_if_any(x):
        return cheap_or_fallback(jnp.isfinite(rms), jnp.zeros((), x.dtype), count, x)

    return branch_on_cpu(count_if_any, count, wide(x))


def fraction(mask: Bool[Array, "..."], dtype=jnp.float32) -> Float[Array, ""]:
    """The fraction of a mask that is true, 0 to 1; 0 for no elements.

    >>> import jax.numpy as jnp
    >>> print(fraction(jnp.array([True, True, True, False])))
    0.75
    """
    # A sum of float32 ones is faster than one of integers, and exact while it is short.
    exact = mask.size <= 2 ** jnp.finfo(jnp.float32).nmant
    count = jnp.sum(mask, dtype=jnp.float32 if exact else jnp.uint32)
    return count.astype(dtype) / max(1, mask.size)


def dead_units(x: Float[Array, "... units"]) -> Float[Array, ""]:
    """The fraction of units (the last axis) that are 0 for the whole batch and everywhere in it.

    >>> import jax.numpy as jnp
    >>> print(dead_units(jnp.array([[0.0, 1.0], [0.0, 0.0]])))
    0.5
    """
    return jnp.mean(jnp.all(x == 0, axis=tuple(range(x.ndim - 1))), dtype=wide(x).dtype)


def similarity(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean cosine between the vectors (the last axis) of two different positions of a batch.

    It is the correlation c of mean-field theory (Schoenholz et al., Deep information propagation,
    ICLR 2017, section 2): 1 where all examples, or all tokens, have become one. nan for fewer than
    two vectors.

    >>> import jax.numpy as jnp
    >>> print(similarity(jnp.array([[1.0, 0.0], [0.0, 1.0]])))
    0.0
    """
    rows = wide(x).reshape(-1, x.shape[-1]) if x.ndim > 1 else wide(x)[None]
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    lengths = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
    unit = rows / jnp.where(lengths > 0, lengths, 1)
    count = jnp.sum(lengths > 0).astype(rows.dtype)  # a vector of zeros has no direction
    pairs = count * (count - 1)
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=0))) - count
    return jnp.where(pairs > 0, total / jnp.where(pairs > 0, pairs, 1), jnp.nan)


def forward(
    x: Inexact[Array, "..."],
    wanted: Collection[str],
    slope: Float[Array, "..."] | None = None,
    largest_slope: float = float("nan"),
) -> ForwardSummary:
    """The forward summary of a signal, if complex of its magnitudes; what is not wanted is nan.

    Args:
      x: the signal.
      wanted: names of `ForwardSummary`'s entries.
      slope: of the nonlinearity that made it, element by element, if one did.
      largest_slope: the most that this nonlinearity's slope can be.
    """
    x = real(whole(x))
    entries = _common(x, wanted, slope, largest_slope)
    if "mean" in wanted:
        root = max(1, x.size) ** 0.5  # divided by twice, so that no sum of huge numbers overflows
        entries["mean"] = jnp.sum(wide(x) / root) / root
    if "dead_units" in wanted and x.ndim:
        entries["dead_units"] = dead_units(x)
    if "similarity" in wanted and x.ndim:
        entries["similarity"] = similarity(x)
    return _filled(ForwardSummary, entries, x)


def backward(cotangent: Inexact[Array, "..."], wanted: Collection[str]) -> BackwardSummary:
    """The backward summary of a signal, from its cotangent; what is not wanted is nan."""
    size = real(whole(cotangent))
    return _filled(BackwardSummary, _common(size, wanted), size)


def _common(x, wanted: Collection[str], slope=None, largest_slope=float("nan")) -> dict:
    entries = {}
    if "rms" in wanted or "non_finite" in wanted:
        entries["rms"] = rms(x)
    if "largest" in wanted:
        entries["largest"] = jnp.max(jnp.abs(x), initial=0.0)
    if "non_finite" in wanted:
        entries["non_finite"] = count_non_finite(x, entries["rms"])
    if "zeros" in wanted:
        entries["zeros"] = fraction(x == 0, wide(x).dtype)
    if "saturated" in wanted and slope is not None:
        entries["saturated"] = fraction(jnp.abs(slope) < SATURATED * largest_slope, wide(x).dtype)
    return {name: value for name, value in entries.items() if name in wanted}


def _filled(kind, entries: dict, x):
    dtype = wide(x).dtype
    nan = jnp.full((), jnp.nan, dtype)
    return kind(**{name: entries.get(name, nan).astype(dtype) for name in kind._fields})


def slope(function: Callable, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of an elementwise function at each element: what a cotangent of 1 comes back as."""
    value, back = jax.vjp(function, x)
    return back(jnp.ones_like(value))[0]


def largest_slope(function: Callable, shape: tuple[int, ...], dtype) -> float:
    """The largest slope of an elementwise function, or nan where it has no bound.

    It is computed on a grid over [-10, 10]; a slope that is still growing at the ends has no bound,
    so that no unit can be called saturated.

    Args:
      function: from an array of the given shape to another of the same.
      shape: what it takes.
      dtype: what it takes.
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return float("nan")  # complex numbers have no order that a grid could follow
    grid = np.linspace(-10, 10, _GRID)
    size = max(1, math.prod(shape))
    points = np.resize(grid, (math.ceil(_GRID / size), *shape)).astype(dtype)
    with jax.ensure_compile_time_eval():
        try:
            slopes = jax.jit(jax.vmap(lambda x: slope(function, x)))(jnp.asarray(points))
            slopes = np.abs(np.asarray(slopes, np.float64))
        except jax.errors.JAXTypeError:  # it has a learnt parameter
            return float("nan")
    inner = slopes[np.abs(points) <= 5]
    bounded = np.isfinite(slopes).all() and slopes.max() <= 1.5 * inner.max()
    return float(slopes.max()) if bounded else float("nan")


_GRID = 1001  # odd, so that 0 is on it
