"""The range in which each activation has a slope at all: beyond it, rounding makes that exactly 0.

Where its slope is only small stands in `vanishing.layers.ACTIVATIONS`.
"""

import math
from typing import NamedTuple

from vanishing.facts import versions


class Range(NamedTuple):
    """Where the slope of an activation is not 0, of numbers up to 200."""

    name: str  # of the activation, as the rows of a trace have it
    dtype: str
    low: float
    high: float
    source: str = "the gradient by jax.grad, number by number"
    version: str = versions.JAX


_NEVER = math.inf
_EXPM1 = "jnp.expm1, whose slope is taken as its value plus 1"
_EXP = "jnp.expm1, whose slope is taken as exp(x)"
_OLD, _NEW = versions.JAX.split(" and ")[0], "JAX " + versions.JAX.split(" and ")[1]
_PRODUCT = "s (1 - s): 1 - s is 0 above long before s is below"
_SQUARE = "1 - tanh(x)^2, which is 0 where a compiled tanh is 1"

RANGES = (
    Range("relu", "float32", 0.0, _NEVER),
    Range("relu", "bfloat16", 0.0, _NEVER),
    Range("relu", "float16", 0.0, _NEVER),
    Range("sigmoid", "float32", -87.3, 16.6, _PRODUCT),
    Range("sigmoid", "bfloat16", -87.0, 5.53, _PRODUCT),
    Range("sigmoid", "float16", -11.1, 7.62, _PRODUCT),
    Range("tanh", "float32", -8.0, 8.0, _SQUARE),
    Range("tanh", "bfloat16", -3.45, 3.45, _SQUARE),
    Range("tanh", "float16", -4.5, 4.5, _SQUARE),
    Range("elu", "float32", -17.3, _NEVER, _EXPM1, _OLD),
    Range("elu", "bfloat16", -6.22, _NEVER, _EXPM1, _OLD),
    Range("elu", "float16", -8.31, _NEVER, _EXPM1, _OLD),
    Range("elu", "float32", -87.0, _NEVER, _EXP, _NEW),
    Range("elu", "bfloat16", -87.0, _NEVER, _EXP, _NEW),
    Range("elu", "float16", -17.3, _NEVER, _EXP, _NEW),
    Range("silu", "float32", -87.3, _NEVER),
    Range("silu", "bfloat16", -87.0, _NEVER),
    Range("silu", "float16", -11.1, _NEVER),
    Range("softplus", "float32", -87.3, _NEVER),
    Range("softplus", "bfloat16", -87.0, _NEVER),
    Range("softplus", "float16", -17.3, _NEVER),
    Range("mish", "float32", -87.3, _NEVER),
    Range("mish", "bfloat16", -87.0, _NEVER),
    Range("mish", "float16", -17.3, _NEVER),
    Range("erf", "float32", -9.34, 9.34),
    Range("erf", "bfloat16", -9.31, 9.31),
    Range("erf", "float16", -4.16, 4.16),
    Range("hard_tanh", "float32", -1.0, 1.0),
    Range("hard_tanh", "bfloat16", -1.0, 1.0),
    Range("hard_tanh", "float16", -1.0, 1.0),
)
"""Activations, by dtype."""


def slope_range(name: str, dtype: str) -> tuple[float, float] | None:
    """The numbers between which an activation has a slope that is not 0, where they are known.

    Where versions differ, it is the widest range.

    >>> slope_range("tanh", "float32"), slope_range("tanh", "bfloat16"), slope_range("sin", "int8")
    ((-8.0, 8.0), (-3.45, 3.45), None)
    """
    rows = [row for row in RANGES if (row.name, row.dtype) == (name, dtype)]
    return (min(row.low for row in rows), max(row.high for row in rows)) if rows else None
