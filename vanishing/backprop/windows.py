"""Windows of an image: what a kernel or a pooling sees at each place, and the padding around it.

Arrays have the shape (batch, *places, channels), with one to three axes of places.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Images = Float[Array, "batch *places channels"]
Padding = str | Sequence[tuple[int, int]]


def paddings(
    padding: Padding,
    places: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    """Number of places that padding adds before and after each axis.

    Args:
      padding: "VALID" for none; "SAME" for as many as make the output ceil(places / stride) long,
        half of them on either side and an odd one after; "CIRCULAR" for k - 1 in all, which are the
        other end of the image; or (before, after) for each axis.
      places: extent of the input along each axis.
      size: that of the kernel.
      strides: steps between windows.

    Raises:
      ValueError: another word, not one pair, size and step for each axis, or one under 1.

    >>> paddings("SAME", (28,), (3,), (2,))
    [(0, 1)]
    """
    if not len(places) == len(size) == len(strides) or min(*size, *strides) < 1:
        raise ValueError(
            f"windows of {tuple(size)} in steps of {tuple(strides)} do not fit {len(places)} axes; "
            "give each axis a size and a step of at least 1."
        )
    if not isinstance(padding, str):
        if len(padding) != len(places):
            raise ValueError(
                f"padding is {padding}; it must have one pair for each of {len(places)} axes."
            )
        return [(int(before), int(after)) for before, after in padding]
    if padding == "VALID":
        return [(0, 0)] * len(places)
    if padding == "CIRCULAR":
        return [((k - 1) // 2, k // 2) for k in size]
    if padding != "SAME":
        raise ValueError(
            f"padding is {padding!r}; it must be SAME, VALID, CIRCULAR or a pair for each axis."
        )
    missing = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(places, size, strides, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in missing]


def outputs(
    places: Sequence[int], size: Sequence[int], strides: Sequence[int], padding: Padding
) -> tuple[int, ...]:
    """Number of windows along each axis.

    >>> outputs((28,), (3,), (2,), "VALID")
    (13,)
    """
    pads = paddings(padding, places, size, strides)
    return tuple(
        (n + sum(pad) - k) // s + 1
        for n, pad, k, s in zip(places, pads, size, strides, strict=True)
    )


def padded(
    x: Images,
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    value: float = 0.0,
) -> Float[Array, "batch *padded channels"]:
    """x~: the input with zeros, another value, or its own other end around it."""
    pads = [(0, 0), *paddings(padding, x.shape[1:-1], size, strides), (0, 0)]
    if padding == "CIRCULAR":
        return jnp.pad(x, pads, mode="wrap")
    return jnp.pad(x, pads, constant_values=value)


def unpadded(
    to_padded: Float[Array, "batch *padded channels"],
    places: Sequence[int],
    pads: Sequence[tuple[int, int]],
    padding: Padding,
) -> Images:
    """dC/dx from dC/dx~: the gradient of the padding is cut off.

    Where the padding is a copy of the image's other end, its gradient is added there.
    """
    gradient = to_padded
    for axis, (n, (before, _)) in enumerate(zip(places, pads, strict=True), start=1):
        front = (slice(None),) * axis
        if padding == "CIRCULAR":
            original = (np.arange(gradient.shape[axis]) - before) % n
            zeros = jnp.zeros(
                (*gradient.shape[:axis], n, *gradient.shape[axis + 1 :]), gradient.dtype
            )
            gradient = zeros.at[(*front, original)].add(gradient)
        else:
            gradient = gradient[(*front, slice(before, before + n))]
    return gradient


def windows(
    x: Images, size: Sequence[int], strides: Sequence[int]
) -> Float[Array, "batch *outputs offsets channels"]:
    """The windows of an array that is padded already: at each place of the output one matrix.

    Args:
      x: of shape (batch, *places, channels).
      size: extent of a window along each axis.
      strides: steps between windows.

    >>> windows(jnp.arange(5.0).reshape(1, 5, 1), (3,), (2,))[0, :, :, 0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    return jnp.stack([x[:, *window] for window in offsets(x.shape[1:-1], size, strides)], axis=-2)


def offsets(
    places: Sequence[int], size: Sequence[int], strides: Sequence[int]
) -> list[tuple[slice, ...]]:
    """For each offset o within a window, the places s p + o at which all windows see it.

    Raises:
      ValueError: the window is larger than what it looks at.
    """
    if any(k > n for n, k in zip(places, size, strict=True)):
        raise ValueError(
            f"windows of {tuple(size)} are larger than the {tuple(places)} places that they look "
            "at; pad the image, or take smaller ones."
        )
    last = [(n - k) // s * s for n, k, s in zip(places, size, strides, strict=True)]
    return [
        tuple(slice(o, o + end + 1, s) for o, end, s in zip(offset, last, strides, strict=True))
        for offset in np.ndindex(*size)
    ]
