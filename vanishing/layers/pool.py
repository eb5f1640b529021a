"""Pooling: the largest number or the mean of a window of places, or the mean of all places."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vanishing import _arguments
from vanishing.layers.base import Layer, stateless
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import unknown

Images = Float[jax.Array | np.ndarray, "batch *places channels"]
Padding = str | Sequence[tuple[int, int]]


@_arguments.checked
def max_pool(
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The largest number of each window of places, channel by channel.

    Theory does not follow it: it depends on the covariance between places.

    Args:
      window: extent along each of the axes between the batch and the channels, of which there are
        1 to 3; at least 1.
      strides: steps between windows, one for all axes or one for each; by default the window, so
        that none overlap.
      padding: "SAME", "VALID", or (before, after) for each axis, which must be under the window.
        Padding is never the largest.

    Returns:
      A layer from (batch, *places, channels) to (batch, *places, channels), without parameters.

    Raises:
      ValueError: window, strides or padding is out of its range, or the input has other axes or is
        smaller than the window.

    >>> layer = max_pool((2, 2))
    >>> layer.apply({}, {}, jnp.arange(16.0).reshape(1, 4, 4, 1)).output.ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    return _pool("max_pool", window, strides, padding, lambda x, *how: _reduce(x, jax.lax.max, how))


@_arguments.checked
def avg_pool(
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The mean of each window of places, channel by channel.

    Theory does not follow it: it depends on the covariance between places.

    Args:
      window: as for `max_pool`.
      strides: as for `max_pool`.
      padding: as for `max_pool`; it adds zeros, which the mean counts, as Flax's does.

    Returns:
      A layer from (batch, *places, channels) to (batch, *places, channels), without parameters.

    Raises:
      ValueError: as for `max_pool`.

    >>> layer = avg_pool((2, 2))
    >>> layer.apply({}, {}, jnp.arange(16.0).reshape(1, 4, 4, 1)).output.ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    window = _arguments.wholes("window", window, owner="avg_pool")
    count = math.prod(window)
    return _pool(
        "avg_pool", window, strides, padding, lambda x, *how: _reduce(x, jax.lax.add, how) / count
    )


def global_avg_pool() -> Layer:
    """The mean over all places: (batch, *places, channels) to (batch, channels).

    Theory does not follow it: it depends on the covariance between places.

    Raises:
      ValueError: the input has not 1 to 3 axes of places.

    Reference: Lin, Chen & Yan, Network in network, ICLR 2014, sec. 3.2.

    >>> global_avg_pool().apply({}, {}, jnp.ones((8, 4, 4, 3))).output.shape
    (8, 3)
    """

    def mean(x: Images):
        if not 3 <= x.ndim <= 5:
            raise ValueError(
                "global_avg_pool takes inputs (batch, 1 to 3 axes of places, channels), but its "
                f"input has shape {x.shape}."
            )
        return jnp.mean(x, tuple(range(1, x.ndim - 1)))

    return stateless(mean, _unknown("global_avg_pool"))


def _pool(
    name: str,
    window: Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
    reduce: Callable[..., jax.Array],
) -> Layer:
    """The layer that reduces each window, after a check of all settings."""
    window = _arguments.wholes("window", window, owner=name)
    axes = len(window)
    strides = window if strides is None else strides
    steps = (strides,) * axes if isinstance(strides, int) else strides
    steps = _arguments.wholes("strides", steps, owner=name)
    if not 1 <= axes <= 3 or len(steps) != axes or min(*window, *steps) < 1:
        raise ValueError(
            f"{name} has a window of size {window} and strides {strides}; both take one number of "
            "at least 1 for each of 1 to 3 axes of places."
        )
    if isinstance(padding, str):
        valid = padding in ("SAME", "VALID")
        around = padding
    else:
        around = tuple(map(tuple, padding))
        valid = len(around) == axes and all(
            len(pair) == 2 and min(pair) >= 0 and max(pair) < size
            for pair, size in zip(around, window, strict=True)
        )
        around = ((0, 0), *around, (0, 0))
    if not valid:
        raise ValueError(
            f'{name} has padding {padding!r}; it must be "SAME", "VALID" or (before, after) for '
            f"each of {axes} axes, at least 0 and under the window {window}."
        )

    def function(x: Images):
        if x.ndim != axes + 2:
            raise ValueError(
                f"{name} with a window of {axes} axes takes inputs (batch, {axes} axes of places, "
                f"channels), but its input has shape {x.shape}."
            )
        output = reduce(x, (1, *window, 1), (1, *steps, 1), around)
        if 0 in output.shape[1:-1]:
            raise ValueError(
                f"{name} has a window of size {window}, but its input has shape {x.shape}; make "
                'the window smaller, or pad with padding="SAME".'
            )
        return output

    return stateless(function, _unknown(name))


def _reduce(x: jax.Array | np.ndarray, operation: Callable, how: tuple) -> jax.Array:
    # a plain number: only with one does JAX know the operation, and with it the gradient
    start = -np.inf if operation is jax.lax.max else 0.0
    return jax.lax.reduce_window(x, start, operation, *how)


def _unknown(name: str):
    def propagate(signal: Signal) -> Signal:
        raise unknown(
            f"{name} depends on the covariance between places, which is not followed.", signal
        )

    return propagate
