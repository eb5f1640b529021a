"""Checks of arguments that raise one-line `ValueError`s: name, value, what is allowed.

A number is checked where it is known; an array, which may be traced, passes. nan is out of every
range.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
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
