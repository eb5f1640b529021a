"""Summaries of signals: a few numbers of an array that neither overflow nor underflow.

All of them take a stack of signals of one shape, whose first axis counts rows, and give one number
for each row.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from vanishing._numerics import divisor, real, wide
from vanishing.probing.patterns import SiteKind

SATURATED = 0.01  # of the largest slope
LOWEST = float(np.finfo(np.float32).min)


class ForwardSummary(NamedTuple):
    """The signal at each row; nan where it did not run, or where an entry was not wanted.

    Of complex signals, everything is that of their magnitudes. Of a signal that is not finite
    everywhere, mean, RMS and largest magnitude are inf or nan, whatever its other elements.
    """

    mean: Float[Array, "..."]
    rms: Float[Array, "..."]  # root of the mean square
    largest: Float[Array, "..."]  # largest magnitude
    zeros: Float[Array, "..."]  # fraction of exact zeros, 0 to 1, at nonlinearities
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


def is_measured(name: str, kind: SiteKind) -> bool:
    """Has a row of this kind the entry of this name, where it is wanted?"""
    return name not in ("zeros", "saturated") or kind == SiteKind.NONLINEARITY


def unmeasured() -> float:
    """The mark of a number that was not measured.

    It is nan, but where JAX looks for nan (`jax_debug_nans`) the lowest number of float32, which
    `Trace` shows as nan.
    """
    return LOWEST if jax.config.jax_debug_nans else math.nan  # pyright: ignore[reportAttributeAccessIssue]


SIZES = frozenset({"mean", "rms", "largest"})  # entries
_BROKEN = 2.0**96

# What the entries follow from, where that is not the number itself.
_FOLLOWS_FROM = {
    "mean": ("largest", "squares", "total"),
    "rms": ("largest", "squares"),
    "largest": ("largest", "squares"),
    "non_finite": ("largest", "counted"),
}


def measures_of(names: Collection[str], sizes: bool = True) -> tuple[str, ...]:
    """The names of the measures that entries of these names follow from.

    Args:
      names: of the entries.
      sizes: are sizes wanted as well? Else what is not finite is counted on its own.

    >>> measures_of(("rms", "mean", "zeros")), measures_of(("rms", "non_finite"))
    (('largest', 'squares', 'total', 'zeros'), ('largest', 'counted'))
    >>> measures_of(("non_finite",), sizes=False)
    ('broken',)
    """
    if not sizes:
        return tuple("broken" if name == "non_finite" else name for name in names)
    measures = dict.fromkeys(m for name in names for m in _FOLLOWS_FROM.get(name, (name,)))
    if "counted" in measures:
        measures.pop("squares", None)
    return tuple(measures)


def measure(
    x: Inexact[Array, "rows *shape"],
    measures: Collection[str],
    is_saturated: Bool[Array, "rows *shape"] | None = None,
) -> dict[str, Float[Array, "rows"]]:
    """The measures of these names of every signal of a stack; those that it has not are left out.

    "squares" and "total" are sums after a division by a number near the largest magnitude; where
    that is 0 or not finite the inverse is 0, and what is not finite becomes nan. "counted" is the
    sum of squares too, in which each nan counts as `_BROKEN`, beside which all finite squares are
    rounding. XLA for CPUs (jaxlib 0.10.2 to 0.12) sums plain squares without storing them. "broken"
    is the number of inf and nan.

    Args:
      x: the signals.
      measures: names, as `measures_of` gives them.
      is_saturated: whether the slope of the nonlinearity that made the signal is under `SATURATED`
        of its largest, element by element.
    """
    axes = tuple(range(1, x.ndim))
    x = wide(real(x))
    result = {}
    if "largest" in measures:
        zero = jnp.zeros(x.shape[:1], x.dtype)
        largest = result["largest"] = jnp.max(jnp.abs(x), axes) if x.size else zero
        # Where the largest is known to be 0, XLA would square the inverse first, which is inf.
        usable = lax.is_finite(largest) & (largest > 0)
        inverse = lax.select(usable, 1 / _divisor(largest), zero)
        scaled = x * lax.broadcast_in_dim(inverse, x.shape, (0,))
        if "squares" in measures:
            result["squares"] = jnp.sum(scaled * scaled, axes)
        if "counted" in measures:
            squares = lax.select(scaled == scaled, scaled * scaled, lax.full_like(scaled, _BROKEN))
            result["counted"] = jnp.sum(squares, axes)
        if "total" in measures:
            result["total"] = jnp.sum(scaled, axes)
    if "broken" in measures:
        result["broken"] = jnp.sum(jnp.where(lax.is_finite(x), 0.0, 1.0).astype(x.dtype), axes)
    if "zeros" in measures:
        result["zeros"] = fraction(x == 0, x.dtype)
    if "saturated" in measures and is_saturated is not None:
        result["saturated"] = fraction(is_saturated, x.dtype)
    if "dead_units" in measures and axes:
        result["dead_units"] = dead_units(x)
    if "similarity" in measures and axes:
        result["similarity"] = similarity(x)
    return result


def complete(
    measured: Mapping[str, Float[Array, "rows"]], measures: Sequence[str], rows: int, dtype: Any
) -> list[Float[Array, "rows"]]:
    """The measures of these names in their order; the mark for those that are absent."""
    absent = jnp.full((rows,), unmeasured(), dtype)
    return [measured[m].astype(dtype) if m in measured else absent for m in measures]


def entries(
    measured: Mapping[str, Float[Array, "rows"]], sizes: Float[np.ndarray, "rows"]
) -> dict[str, Float[Array, "rows"]]:
    """The entries of the summaries of signals, given their measures and numbers of elements."""
    result = dict(measured)
    if "broken" in measured:
        result["non_finite"] = measured["broken"]
    squares = measured.get("counted", measured.get("squares"))
    if squares is not None:
        largest = measured["largest"]
        sizes = np.maximum(sizes, 1).astype(largest.dtype)
        # XLA for CPUs (jaxlib 0.10.2 to 0.12) leaves nan out of the maximum of a large array.
        broken = lax.select(largest == jnp.inf, largest, lax.full_like(largest, jnp.nan))
        finite, divisor = squares < _BROKEN / 2, _divisor(largest)
        result["largest"] = lax.select(finite, largest, broken)
        result["rms"] = lax.select(finite, divisor * jnp.sqrt(squares / sizes), broken)
        if "counted" in measured:
            result["non_finite"] = lax.round(squares / _BROKEN, lax.RoundingMethod.TO_NEAREST_EVEN)
        if "total" in measured:
            result["mean"] = divisor * (measured["total"] / sizes)
    return result


def _divisor(largest: Float[Array, "rows"]) -> Float[Array, "rows"]:
    """The largest magnitude, within the numbers whose inverse is a normal number too."""
    info = jnp.finfo(largest.dtype)
    low, high = (np.asarray(bound, largest.dtype) for bound in (4 * info.tiny, info.max / 4))
    return lax.clamp(low, largest, high)


def fraction(mask: Bool[Array, "rows ..."], dtype: Any = jnp.float32) -> Float[Array, "rows"]:
    """The fraction of each mask that is true, 0 to 1; 0 for no elements.

    >>> import jax.numpy as jnp
    >>> print(fraction(jnp.array([[True, True, True, False]])))
    [0.75]
    """
    size = math.prod(mask.shape[1:])
    # A sum of float32 ones is faster than one of integers, and exact while it is short.
    exact = size <= 2 ** jnp.finfo(jnp.float32).nmant
    ones = jnp.where(mask, 1.0, 0.0) if exact else mask.astype(jnp.uint32)
    count = jnp.sum(ones, tuple(range(1, mask.ndim)))
    return count.astype(dtype) / max(1, size)


def dead_units(x: Inexact[Array, "rows *shape units"]) -> Float[Array, "rows"]:
    """The fraction of units (the last axis) that are 0 for the whole batch and everywhere in it.

    >>> import jax.numpy as jnp
    >>> print(dead_units(jnp.array([[[0.0, 1.0], [0.0, 0.0]]])))
    [0.5]
    """
    return fraction(jnp.all(x == 0, axis=tuple(range(1, x.ndim - 1))), wide(real(x)).dtype)


def similarity(x: Inexact[Array, "rows *shape"]) -> Float[Array, "rows"]:
    """Mean cosine between the vectors (the last axis) of two different positions of a batch.

    It is the correlation c of mean-field theory (Schoenholz et al., Deep information propagation,
    ICLR 2017, section 2): 1 where all examples, or all tokens, have become one. nan for fewer than
    two vectors.

    >>> import jax.numpy as jnp
    >>> print(similarity(jnp.array([[[1.0, 0.0], [0.0, 1.0]]])))
    [0.]
    """
    vectors = wide(real(x)).reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    vectors = vectors / divisor(jnp.max(jnp.abs(vectors), axis=2, keepdims=True, initial=0.0))
    lengths = jnp.sqrt(jnp.sum(jnp.square(vectors), axis=2, keepdims=True))
    unit = vectors / jnp.where(lengths > 0, lengths, 1)
    # A vector of zeros has no direction.
    count = jnp.sum(lengths > 0, axis=(1, 2)).astype(vectors.dtype)
    pairs = count * (count - 1)
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=1)), axis=1) - count
    return jnp.where(pairs > 0, total / jnp.where(pairs > 0, pairs, 1), unmeasured())
