"""Summaries of signals: a few numbers of an array that neither overflow nor underflow.

All of them take a stack of signals of one shape, whose first axis counts rows, and give one number
for each row.
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact

from vanishing._numerics import divisor, wide
from vanishing.probing.patterns import SiteKind

SATURATED = 0.01  # of the largest slope
LOWEST = float(np.finfo(np.float32).min)


class ForwardSummary(NamedTuple):
    """The signal at each row; nan where it did not run, or where an entry was not wanted.

    Of complex signals, everything is that of their magnitudes.
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
    return LOWEST if jax.config.jax_debug_nans else math.nan


def forward(
    x: Inexact[Array, "rows *shape"],
    wanted: Collection[str],
    is_saturated: Bool[Array, "rows *shape"] | None = None,
) -> dict[str, Float[Array, "rows"]]:
    """The wanted entries of `ForwardSummary` for every signal of a stack.

    Args:
      x: the signals.
      wanted: names of entries.
      is_saturated: whether the slope of the nonlinearity that made the signal is under `SATURATED`
        of its largest, element by element; "saturated" is left out without it.
    """
    entries = _sizes(x, wanted)
    if "saturated" in wanted and is_saturated is not None:
        entries["saturated"] = fraction(is_saturated)
    if "dead_units" in wanted and x.ndim > 1:
        entries["dead_units"] = dead_units(x)
    if "similarity" in wanted and x.ndim > 1:
        entries["similarity"] = similarity(x)
    return entries


def backward(
    cotangent: Inexact[Array, "rows *shape"], wanted: Collection[str]
) -> dict[str, Float[Array, "rows"]]:
    """The wanted entries of `BackwardSummary` for every cotangent of a stack."""
    return _sizes(cotangent, set(wanted).intersection(BackwardSummary._fields))


def table(
    entries: dict[str, Float[Array, "rows"]], names: Sequence[str], rows: int, dtype
) -> Float[Array, "names rows"]:
    """Entries below each other, in the order of their names; what is absent is unmeasured."""
    absent = jnp.full((rows,), unmeasured(), dtype)
    return jnp.stack([entries[n].astype(dtype) if n in entries else absent for n in names])


def _sizes(x, wanted: Collection[str]) -> dict[str, Float[Array, "rows"]]:
    """Mean, RMS, largest magnitude, zeros and count of what is not finite.

    The squares are taken after a division by the largest magnitude. Where that is not finite, the
    inverse is 0, so that finite elements become 0 and the others nan, and count as 1 each.
    """
    wanted = set(wanted)
    axes = tuple(range(1, x.ndim))
    count = max(1, math.prod(x.shape[1:]))
    x = wide(x)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    entries = {}
    if wanted & {"mean", "rms", "largest", "non_finite"}:
        largest = jnp.max(jnp.abs(x), axes, keepdims=True, initial=0.0)
        finite = jnp.isfinite(largest)
        scale = divisor(largest)
        scaled = x * jnp.where(finite, 1 / scale, 0)
        scale, finite = scale.reshape(-1), finite.reshape(-1)
        entries["largest"] = largest.reshape(-1)
    if wanted & {"rms", "non_finite"}:
        squares = jnp.sum(jnp.where(scaled == scaled, jnp.square(scaled), 1), axes)
        entries["rms"] = jnp.where(finite, scale, entries["largest"]) * jnp.sqrt(squares / count)
        entries["non_finite"] = jnp.where(finite, 0, squares)
    if "mean" in wanted:
        entries["mean"] = scale * (jnp.sum(scaled, axes) / count)
    if "zeros" in wanted:
        entries["zeros"] = fraction(x == 0)
    return {name: value for name, value in entries.items() if name in wanted}


def fraction(mask: Bool[Array, "rows ..."]) -> Float[Array, "rows"]:
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
    return count.astype(jnp.float32) / max(1, size)


def dead_units(x: Inexact[Array, "rows *shape units"]) -> Float[Array, "rows"]:
    """The fraction of units (the last axis) that are 0 for the whole batch and everywhere in it.

    >>> import jax.numpy as jnp
    >>> print(dead_units(jnp.array([[[0.0, 1.0], [0.0, 0.0]]])))
    [0.5]
    """
    return fraction(jnp.all(x == 0, axis=tuple(range(1, x.ndim - 1))))


def similarity(x: Inexact[Array, "rows *shape"]) -> Float[Array, "rows"]:
    """Mean cosine between the vectors (the last axis) of two different positions of a batch.

    It is the correlation c of mean-field theory (Schoenholz et al., Deep information propagation,
    ICLR 2017, section 2): 1 where all examples, or all tokens, have become one. nan for fewer than
    two vectors.

    >>> import jax.numpy as jnp
    >>> print(similarity(jnp.array([[[1.0, 0.0], [0.0, 1.0]]])))
    [0.]
    """
    vectors = wide(x).reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    vectors = jnp.abs(vectors) if jnp.iscomplexobj(x) else vectors
    vectors = vectors / divisor(jnp.max(jnp.abs(vectors), axis=2, keepdims=True, initial=0.0))
    lengths = jnp.sqrt(jnp.sum(jnp.square(vectors), axis=2, keepdims=True))
    unit = vectors / jnp.where(lengths > 0, lengths, 1)
    # A vector of zeros has no direction.
    count = jnp.sum(lengths > 0, axis=(1, 2)).astype(vectors.dtype)
    pairs = count * (count - 1)
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=1)), axis=1) - count
    return jnp.where(pairs > 0, total / jnp.where(pairs > 0, pairs, 1), unmeasured())
