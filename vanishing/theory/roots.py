"""Roots of scalar functions, between points where they differ in sign."""

from collections.abc import Callable

import numpy as np
import scipy.optimize
from jaxtyping import Float


def root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f is 0 between two points at which it differs in sign, to 13 digits.

    >>> print(f"{root(lambda x: x * x - 2, 1.0, 2.0):.12f}")
    1.414213562373
    """
    result = scipy.optimize.root_scalar(
        f, bracket=(low, high), method="brentq", xtol=1e-15, rtol=1e-14
    )
    return float(result.root)


def crossings(
    f: Callable[[float], float],
    grid: Float[np.ndarray, " point"],
    values: Float[np.ndarray, " point"],
) -> list[float]:
    """All roots of f that a grid separates, given its values there, in ascending order.

    Points whose value is 0 are skipped: set rounding errors to 0.
    """
    clear = np.flatnonzero(values != 0)  # a value that was rounded to 0 has no sign
    sides = np.sign(values[clear])
    changes = np.flatnonzero(sides[:-1] * sides[1:] < 0)
    return [root(f, float(grid[clear[i]]), float(grid[clear[i + 1]])) for i in changes]
