"""Singular points: where a number or a slope is not finite, and what to write in place of it.

The tests take each value and each slope again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vanishing._text import english
from vanishing.facts import versions


class Singular(NamedTuple):
    """An operation that breaks, under the name that users know it by."""

    name: str
    value: str  # where its value is not finite
    slope: str  # where its slope is not finite; "" for nowhere else
    safe: str  # what to write; {tiny} and {near} depend on the dtype
    version: str = versions.JAX
    source: str = "value and slope at that point, by jax.value_and_grad of the operation of jax.lax"


_UNDER_ROOT = "add {tiny} under the root, or jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)"
_INSIDE = "clip it to -1 + {near} and 1 - {near}, or use arctan2"
_EXP = "keep what exp takes in bounded: c * tanh(x / c), a clip, or less its own maximum"

SINGULAR = {
    "acos": Singular("arccos", "beyond -1 and 1", "at -1 and 1", _INSIDE),
    "acosh": Singular("arccosh", "under 1", "at 1", "take it of jnp.maximum(x, 1 + {near})"),
    "asin": Singular("arcsin", "beyond -1 and 1", "at -1 and 1", _INSIDE),
    "atan2": Singular("arctan2", "", "at (0, 0)", "keep its two arguments from both being 0"),
    "atanh": Singular(
        "arctanh",
        "at -1 and 1, and beyond",
        "",
        "clip it to -1 + {near} and 1 - {near}",
    ),
    "cbrt": Singular("cbrt", "", "at 0", "add {tiny} to what it takes in"),
    "digamma": Singular("digamma", "at 0 and whole numbers under it", "", "keep x over {near}"),
    "div": Singular("a division", "by 0", "by 0", "add {tiny} to the divisor, or jnp.where on it"),
    "eigh": Singular(
        "eigh", "", "where two eigenvalues are equal", "use a function of the matrix itself"
    ),
    "erf_inv": Singular(
        "erf_inv", "at -1 and 1, and beyond", "", "clip it to -1 + {near} and 1 - {near}"
    ),
    "integer_pow": Singular("a negative power", "of 0", "of 0", "keep what it takes in from 0"),
    "lgamma": Singular("lgamma", "at 0 and whole numbers under it", "", "keep x over {near}"),
    "log": Singular(
        "log",
        "of 0 or less",
        "of 0",
        "log(x + {near}), or log_softmax and log_sigmoid of the logits",
    ),
    "log1p": Singular("log1p", "of -1 or less", "of -1", "keep x over -1 + {near}"),
    "pow": Singular(
        "a power", "of 0 or less", "at 0, of a power under 1", "take it of jnp.maximum(x, {tiny})"
    ),
    "rem": Singular("a remainder", "of a division by 0", "", "keep the divisor from 0"),
    "rsqrt": Singular("rsqrt", "of 0 or less", "of 0", "add {tiny} under the root"),
    "sqrt": Singular("sqrt", "of less than 0", "at 0", _UNDER_ROOT),
    "svd": Singular(
        "svd", "", "where two singular values are equal", "use a function of the matrix itself"
    ),
    "tan": Singular("tan", "at odd multiples of pi / 2", "", "keep what it takes in under 1.5"),
}
_EXPONENTIALS = ("cosh", "exp", "exp2", "expm1", "sinh")
SINGULAR |= {op: Singular(op, "of a large number", "", _EXP) for op in _EXPONENTIALS}

GROW = frozenset(
    {
        *(
            "add",
            "add_any",
            "cast",
            "conv_general_dilated",
            "cumprod",
            "cumsum",
            "dot_general",
            "mul",
            "neg",
        ),
        *(
            "power",
            "quotient",
            "reduce_prod",
            "reduce_sum",
            "reduce_window_sum",
            "scatter-add",
            "square",
            "sub",
        ),
    }
)
"""These are finite unless what they are given is large, or infinite."""

OVERFLOWS = frozenset({*_EXPONENTIALS})
"""These break by an overflow alone."""


def safe(op: str, dtype: str) -> str:
    """What to write in place of an operation on numbers of a dtype.

    >>> safe("rsqrt", "float32"), safe("rsqrt", "float16")
    ('add 1e-12 under the root', 'add 1e-3 under the root')
    """
    tiny = "1e-3" if dtype == "float16" else "1e-12"
    near = {"float16": "1e-3", "bfloat16": "1e-2"}.get(dtype, "1e-6")
    return SINGULAR[op].safe.format(tiny=tiny, near=near)


def in_words(ops: Sequence[str], of_slope: bool) -> str:
    """What breaks in one of these operations.

    >>> in_words(("sqrt",), of_slope=True), in_words(("log", "div"), of_slope=False)
    ('the derivative of sqrt at 0', 'log of 0 or less or a division by 0')
    """
    known = [SINGULAR[op] for op in ops if op in SINGULAR]
    if not known:
        return english(list(ops), "or")
    if of_slope:
        return english([f"the derivative of {s.name} {s.slope or s.value}" for s in known], "or")
    return english([f"{s.name} {s.value or s.slope}" for s in known], "or")
