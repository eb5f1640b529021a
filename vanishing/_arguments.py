"""Checks of arguments that raise one-line `ValueError`s: name, value, what is allowed.

A number is checked where it is known; an array, which may be traced, passes. nan is out of every
range.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import Scalar


def shape(name: str, array: jax.Array | np.ndarray, expected: Sequence[int]) -> None:
    """Refuse an array of another shape, which would broadcast to a wrong answer.

    Raises:
      ValueError: with both shapes.
    """
    if np.shape(array) != tuple(expected):
        raise ValueError(f"{name} has shape {np.shape(array)}; it must be {tuple(expected)}.")


def one_of(name: str, value: Any, allowed: Iterable[str], otherwise: str = "") -> None:
    """Refuse a value that is not among the allowed names.

    Args:
      name: of the argument.
      value: what it is.
      allowed: the names on offer.
      otherwise: what else is allowed, to end the message with.

    Raises:
      ValueError: with the value and the names.

    >>> one_of("level", "sites", ("layers", "ops"))
    Traceback (most recent call last):
    ValueError: level is 'sites'; it must be one of layers, ops.
    """
    names = tuple(allowed)
    if value not in names:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(names)}{otherwise}.")


def at_least(
    name: str, value: Scalar, least: float | int, *, owner: str = "", note: str = ""
) -> None:
    """Refuse a number under `least`.

    Args:
      name: of the argument.
      value: what it is.
      least: the smallest number that is allowed.
      owner: the function or layer that the argument belongs to, where the name alone could be
        that of several.
      note: added to the message.

    Raises:
      ValueError: with the number and the least.

    >>> at_least("width", 0, 1, owner="mlp")
    Traceback (most recent call last):
    ValueError: mlp has width 0; it must be at least 1.
    """
    if _is_known(value) and not value >= least:
        raise ValueError(f"{_subject(name, value, owner)}; it must be at least {least}{note}.")


def whole(name: str, value: Any, least: int, *, owner: str = "", note: str = "") -> None:
    """Refuse what is no whole number, or one under `least`.

    Args:
      name: of the argument, a size or a count.
      value: what it is.
      least: the smallest number that is allowed.
      owner: as for `at_least`.
      note: as for `at_least`.

    Raises:
      ValueError: with the value and the least.

    >>> whole("width", 3.5, 1, owner="mlp")
    Traceback (most recent call last):
    ValueError: mlp has width 3.5; it must be a whole number of at least 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        subject = _subject(name, described(value), owner)
        allowed = f"a whole number of at least {least}"
        raise ValueError(f"{subject}; it must be {allowed}{note}.") from None
    at_least(name, number, least, owner=owner, note=note)


def wholes(name: str, values: Any, *, owner: str = "") -> tuple[int, ...]:
    """A tuple of whole numbers, one for each axis.

    Raises:
      ValueError: it is a single number, or one of it is no whole number.

    >>> wholes("window", 2, owner="max_pool")
    Traceback (most recent call last):
    ValueError: max_pool has window 2; it must be a tuple of whole numbers, one for each axis.
    """
    if isinstance(values, Iterable) and all(isinstance(v, int | np.integer) for v in values):
        return tuple(values)
    subject = _subject(name, described(values), owner)
    raise ValueError(f"{subject}; it must be a tuple of whole numbers, one for each axis.")


def instance(name: str, value: Any, kinds: type | tuple[type, ...], what: str) -> None:
    """Refuse a value of another type, and name the field of it that would do.

    Args:
      name: of the argument.
      value: what it is.
      kinds: the types that are allowed.
      what: these, in words.

    Raises:
      ValueError: with the value and what it must be.

    >>> instance("trace", "gradients", int, "a Trace of `vanishing.probe`")
    Traceback (most recent call last):
    ValueError: trace is 'gradients'; it must be a Trace of `vanishing.probe`.
    """
    if isinstance(value, kinds):
        return
    kind = type(value)
    fields = getattr(kind, "_fields", ()) or getattr(kind, "__dataclass_fields__", ())
    fitting = (field for field in fields if isinstance(getattr(value, field, None), kinds))
    hints = (f": pass {kind.__name__.lower()}.{field}" for field in fitting)
    raise ValueError(f"{name} is {described(value)}; it must be {what}{next(hints, '')}.")


def function(name: str, value: Any, what: str, *, owner: str = "") -> None:
    """Refuse a value that cannot be called.

    Args:
      name: of the argument.
      value: what it is.
      what: the function that it must be, in words.
      owner: as for `at_least`.

    Raises:
      ValueError: with the value and what it must be.

    >>> function("kernel_init", "zeros", "an initialiser", owner="dense")
    Traceback (most recent call last):
    ValueError: dense has kernel_init 'zeros'; it must be an initialiser.
    """
    if not callable(value):
        raise ValueError(f"{_subject(name, described(value), owner)}; it must be {what}.")


def described(value: Any) -> str:
    """A value in a few words: itself if that is short, a function's name, or else the type.

    >>> described((32, 64)), described(len), described({"kernel": list(range(100))})
    ('(32, 64)', 'the function len', 'a value of type dict')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    text = repr(value)
    is_short = len(text) <= 40 and "\n" not in text and not text.startswith("<")
    return text if is_short else f"a value of type {type(value).__name__}"


def over(name: str, value: Scalar, bound: float | int, *, owner: str = "") -> None:
    """Refuse a number that is not over `bound`.

    Raises:
      ValueError: with the number and the bound.
    """
    if _is_known(value) and not value > bound:
        raise ValueError(f"{_subject(name, value, owner)}; it must be over {bound}.")


def between(
    name: str, value: Scalar, low: float | int, high: float | int, *, owner: str = ""
) -> None:
    """Refuse a number out of [low, high).

    Raises:
      ValueError: with the number and the range.
    """
    if _is_known(value) and not low <= value < high:
        subject = _subject(name, value, owner)
        raise ValueError(f"{subject}; it must be at least {low} and under {high}.")


def positive(name: str, value: Scalar) -> None:
    """Refuse a number that is not over 0, or not finite.

    Raises:
      ValueError: with the number.
    """
    if _is_known(value) and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be over 0 and finite.")


def _is_known(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _subject(name: str, value: Any, owner: str) -> str:
    return f"{owner} has {name} {value}" if owner else f"{name} is {value}"


def held(name: str, values: Any, *, owner: str = "") -> np.ndarray:
    """Numbers as JAX holds them, which must be the numbers that were given.

    By default JAX has 32 bits. Refused are integers that do not come back, and floating-point
    numbers that change by more than a millionth, to 0 or to inf; smaller than the smallest normal
    number, they become 0 on many a device.

    Args:
      name: of the argument.
      values: a number or a sequence of them.
      owner: as for `at_least`.

    Raises:
      ValueError: with the first number that is lost, and what would become of it.

    >>> held("seed", [5, 2**32 + 5])
    Traceback (most recent call last):
    ValueError: seed has 4294967301, which JAX holds as 5; integers of int32 go from ...
    """
    subject = f"{owner} has {name}" if owner else f"{name} has"
    try:
        given = np.asarray(values)
    except ValueError:  # rows of different lengths
        given = np.array(None)
    if not jnp.issubdtype(given.dtype, np.number) and given.dtype != bool:
        raise ValueError(f"{subject} {described(values)}; it must be numbers that JAX can hold.")
    dtype = jax.dtypes.canonicalize_dtype(given.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        result = given.astype(dtype)
        lost = np.zeros(given.shape, bool)
        low, high, shown = 0, 0, result
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            lost = result.astype(given.dtype) != given
        elif dtype.kind in "fc":
            low, high, size = np.finfo(dtype).tiny, np.finfo(dtype).max, np.abs(given)
            changed = ~(np.abs(result.astype(given.dtype) - given) <= 1e-6 * size)
            lost = np.isfinite(given) & (given != 0) & (changed | (size < low))
            shown = np.where(size < low, 0, result)
    if lost.any():
        at = np.unravel_index(np.argmax(lost), lost.shape)
        kind, digits = ("integers", "d") if dtype.kind in "iu" else ("sizes", ".2g")
        raise ValueError(
            f"{subject} {given[at]}, which JAX holds as {shown[at]}; {kind} of {dtype} go from "
            f"{low:{digits}} to {high:{digits}}."
        )
    return result


def distinct(name: str, values: Sequence[Any] | np.ndarray, alike: np.ndarray, where: str) -> None:
    """Refuse values of which two become the same.

    Args:
      name: of the argument.
      values: as they were given.
      alike: what becomes of each of them.
      where: where they are the same, in words.

    Raises:
      ValueError: with two of the values.

    >>> distinct("rates", (0.1, 0.1 + 1e-10), np.float32([0.1, 0.1]), "in float32")
    Traceback (most recent call last):
    ValueError: rates has 0.1 and 0.1000000001, which are the same in float32; leave one ...
    """
    _, first, groups = np.unique(alike, return_index=True, return_inverse=True)
    for number, group in enumerate(groups.ravel()):
        if first[group] != number:
            pair = f"{values[first[group]]!r} and {values[number]!r}"
            raise ValueError(
                f"{name} has {pair}, which are the same {where}; leave one of them out."
            )
