"""Backpropagation in pooling by the maximum and by the mean.

With the window of the (padded) input at the place p of the output written x~[p, o] over offsets o,

    max:   z[p] = max over o of x~[p, o]        dC/dx~[p, o] = delta[p] where o is the largest
    mean:  z[p] = mean over o of x~[p, o]       dC/dx~[p, o] = delta[p] / number of offsets

channel by channel, and an input that lies in several windows adds up what each of them sends.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing.backprop.windows import (
    Images,
    Padding,
    offsets,
    outputs,
    padded,
    paddings,
    unpadded,
    windows,
)

Pooled = Float[Array, "batch *outputs channels"]


@_arguments.checked
def max_pool(
    x: Images, size: Sequence[int], strides: Sequence[int], padding: Padding = "VALID"
) -> Pooled:
    """The largest number of each window, `z[p] = max over o of x~[p, o]`.

    Args:
      x: of shape (batch, *places, channels).
      size: extent of the window along each axis.
      strides: steps between windows.
      padding: "SAME", "VALID", or (before, after) for each axis, under the window. What is padded
        is never the largest.

    Returns:
      z, of shape (batch, *outputs, channels).

    Raises:
      ValueError: the window is larger than the image, or no larger than its padding.

    Reference: Goodfellow, Bengio & Courville, Deep learning, 2016, sec. 9.3.

    >>> max_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1), (2,), (2,)).ravel().tolist()
    [3.0, 2.0]
    """
    _require_under_the_window(size, padding)
    return windows(padded(x, size, strides, padding, -jnp.inf), size, strides).max(axis=-2)


@_arguments.checked
def max_pool_gradient(
    x: Images,
    delta: Pooled,
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding = "VALID",
) -> Images:
    """dC/dx: each delta goes to the largest number of its window, to the first of equal ones.

    The derivative of a maximum is 1 for the largest and 0 for all others, which hear nothing.

    Args:
      x: what was pooled, of shape (batch, *places, channels).
      delta: dC/dz, of the shape of the output, (batch, *outputs, channels).
      size: as in `max_pool`.
      strides: as in `max_pool`.
      padding: as in `max_pool`.

    Returns:
      dC/dx, of the shape of x.

    Raises:
      ValueError: as `max_pool`, or delta has another shape than the output.

    >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
    >>> max_pool_gradient(x, jnp.array([5.0, 7.0]).reshape(1, 2, 1), (2,), (2,)).ravel().tolist()
    [0.0, 5.0, 7.0, 0.0]
    """
    _require_under_the_window(size, padding)
    places = x.shape[1:-1]
    _arguments.shape(
        "delta", delta, (len(x), *outputs(places, size, strides, padding), x.shape[-1])
    )
    patches = windows(padded(x, size, strides, padding, -jnp.inf), size, strides)
    winner = jax.nn.one_hot(patches.argmax(axis=-2), patches.shape[-2], axis=-2, dtype=delta.dtype)
    return overlap_add(winner * jnp.expand_dims(delta, -2), places, size, strides, padding)


@_arguments.checked
def avg_pool(
    x: Images, size: Sequence[int], strides: Sequence[int], padding: Padding = "VALID"
) -> Pooled:
    """The mean of each window, `z[p] = mean over o of x~[p, o]`, the zeros of the padding among it.

    Args:
      x: of shape (batch, *places, channels).
      size: extent of the window along each axis.
      strides: steps between windows.
      padding: "SAME", "VALID", or (before, after) for each axis, under the window.

    Returns:
      z, of shape (batch, *outputs, channels).

    Raises:
      ValueError: the window is larger than the image, or no larger than its padding.

    Reference: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE
    1998, sec. II.B, there with a coefficient to learn.
    """
    _require_under_the_window(size, padding)
    return windows(padded(x, size, strides, padding), size, strides).mean(axis=-2)


@_arguments.checked
def avg_pool_gradient(
    delta: Pooled,
    places: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding = "VALID",
) -> Images:
    """dC/dx: each delta is shared out evenly over its window.

    Args:
      delta: dC/dz, of the shape of the output, (batch, *outputs, channels).
      places: extent of x along each axis.
      size: as in `avg_pool`.
      strides: as in `avg_pool`.
      padding: as in `avg_pool`.

    Returns:
      dC/dx, of shape (batch, *places, channels).

    Raises:
      ValueError: as `avg_pool`, or delta has another shape than the output.

    >>> avg_pool_gradient(jnp.array([6.0]).reshape(1, 1, 1), (3,), (3,), (3,)).ravel().tolist()
    [2.0, 2.0, 2.0]
    """
    _require_under_the_window(size, padding)
    output_places = outputs(places, size, strides, padding)
    _arguments.shape("delta", delta, (len(delta), *output_places, delta.shape[-1]))
    count = math.prod(size)
    shares = jnp.repeat(jnp.expand_dims(delta / count, -2), count, axis=-2)
    return overlap_add(shares, places, size, strides, padding)


def overlap_add(
    sent: Float[Array, "batch *outputs offsets channels"],
    places: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> Images:
    """Sum at each place of what all windows send back: the transpose of `windows`.

    Args:
      sent: to each offset of each window.
      places: extent, along each axis, of the array that the windows were of.
      size: extent of a window.
      strides: steps between windows.
      padding: that the array had been given.
    """
    pads = paddings(padding, places, size, strides)
    extents = [before + n + after for n, (before, after) in zip(places, pads, strict=True)]
    total = jnp.zeros((len(sent), *extents, sent.shape[-1]), sent.dtype)
    for number, window in enumerate(offsets(extents, size, strides)):
        total = total.at[:, *window].add(sent[..., number, :])
    return unpadded(total, places, pads, padding)


def _require_under_the_window(size: Sequence[int], padding: Padding) -> None:
    if padding == "CIRCULAR":
        raise ValueError(
            "padding is 'CIRCULAR'; pooling takes SAME, VALID or a pair for each axis."
        )
    if not isinstance(padding, str) and any(
        not 0 <= end < k for pair, k in zip(padding, size, strict=False) for end in pair
    ):
        raise ValueError(
            f"padding is {padding}; each number must be at least 0 and under that of the window "
            f"{tuple(size)}."
        )
