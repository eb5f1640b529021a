"""What functions ask of their arguments, said in one line where it is not so."""

from collections.abc import Sequence

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


def between(name: str, value: Scalar, low: float, high: float) -> None:
    """Refuse a number out of [low, high); an array, which may be traced, passes.

    Raises:
      ValueError: with the number and the range.
    """
    if isinstance(value, (int, float)) and not low <= value < high:
        raise ValueError(f"{name} is {value}; it must be at least {low} and under {high}.")


def positive(name: str, value: Scalar) -> None:
    """Refuse a number that is not over 0, or not finite; an array, which may be traced, passes.

    Raises:
      ValueError: with the number.
    """
    if isinstance(value, (int, float)) and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be over 0 and finite.")
