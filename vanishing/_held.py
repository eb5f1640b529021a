"""Values of sweeps and flags: held by JAX as they were given, and each one once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._arguments import described


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
