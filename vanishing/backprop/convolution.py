"""Backpropagation in a convolution: one small kernel, shared by all places.

A convolution is a dense layer at every place, on the window of the input that lies there:

    z[n, p] = sum over offsets o of  x~[n, s p + o] W[o] + b

where x~ is the padded input, p runs over the places of the output, o over those of the kernel, s is
the stride, and W[o] has shape (channels, features). All places share W, so that its gradient is a
sum over places; an input lies in several windows, so that its gradient is a sum over offsets.

Places have one to three axes: arrays have the shape (batch, *places, channels) and kernels
(*kernel_size, channels, features).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing.backprop.windows import Images, Padding, outputs, padded, paddings, unpadded, windows

Errors = Float[Array, "batch *outputs features"]
Kernel = Float[Array, "*kernel_size channels features"]


@_arguments.checked
def conv(
    x: Images,
    kernel: Kernel,
    bias: Float[Array, " features"],
    strides: Sequence[int],
    padding: Padding,
) -> Errors:
    """The convolution: at every place the window there, as one long vector, times the kernel.

    Args:
      x: of shape (batch, *places, channels).
      kernel: W, of shape (*kernel_size, channels, features).
      bias: b, of shape (features,).
      strides: steps between windows, for each axis.
      padding: "SAME", "VALID", "CIRCULAR", or (before, after) for each axis.

    Returns:
      z, of shape (batch, *outputs, features).

    Raises:
      ValueError: the shapes do not go together, or the kernel is larger than the image.

    Reference: Dumoulin & Visin, A guide to convolution arithmetic for deep learning, 2016, ch. 2.

    >>> x, kernel = jnp.arange(5.0).reshape(1, 5, 1), jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    >>> conv(x, kernel, jnp.zeros(1), (1,), "VALID").ravel().tolist()
    [-2.0, -2.0, -2.0]
    """
    size, channels = kernel.shape[:-2], kernel.shape[-2]
    _arguments.shape("x", x, (len(x), *x.shape[1:-1], channels))
    patches = windows(padded(x, size, strides, padding), size, strides)
    z = jnp.tensordot(patches, _rows(kernel), axes=2)
    return z + jnp.broadcast_to(bias, z.shape)


@_arguments.checked
def conv_bias_gradient(delta: Errors) -> Float[Array, " features"]:
    """`dC/db = sum over examples n and places p of delta[n, p]`.

    Args:
      delta: dC/dz, of shape (batch, *outputs, features).

    >>> print(conv_bias_gradient(jnp.ones((2, 3, 3, 1))))
    [18.]
    """
    return delta.sum(axis=tuple(range(delta.ndim - 1)))


@_arguments.checked
def conv_kernel_gradient(
    x: Images,
    delta: Errors,
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> Kernel:
    """`dC/dW[o] = sum over examples and places p of x~[s p + o]^T delta[p]`.

    The weight gradient of a dense layer, summed over the places that share the kernel.

    Args:
      x: what the convolution reads.
      delta: dC/dz, of the shape of its output, (batch, *outputs, features).
      size: the kernel's extent along each axis.
      strides: as in `conv`.
      padding: as in `conv`.

    Returns:
      dC/dW, of shape (*size, channels, features).

    Raises:
      ValueError: delta has another shape than the output.

    Reference: LeCun et al., Backpropagation applied to handwritten zip code recognition, Neural
    Computation 1989, sec. 3.2, for the sharing.
    """
    output_places = outputs(x.shape[1:-1], size, strides, padding)
    _arguments.shape("delta", delta, (len(x), *output_places, delta.shape[-1]))
    patches = windows(padded(x, size, strides, padding), size, strides)
    axes = tuple(range(delta.ndim - 1))  # examples and places
    gradient = jnp.tensordot(patches, delta, (axes, axes))
    return gradient.reshape(*size, x.shape[-1], delta.shape[-1])


@_arguments.checked
def conv_input_gradient(
    delta: Errors,
    kernel: Kernel,
    places: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> Images:
    """`dC/dx~[q] = sum over the p and o with s p + o = q of delta[p] W[o]^T`.

    A transposed convolution, which is a convolution again: of delta, with s - 1 zeros put between
    its places and a kernel's width of zeros around it, by the kernel turned by 180 degrees with its
    channels and features swapped; stride 1. What falls on the zeros around x is cut off.

    Args:
      delta: dC/dz, of the shape of the output, (batch, *outputs, features).
      kernel: W, of shape (*kernel_size, channels, features).
      places: extent of x along each axis.
      strides: as in `conv`.
      padding: as in `conv`.

    Returns:
      dC/dx, of shape (batch, *places, channels).

    Raises:
      ValueError: delta has another shape than the output.

    Reference: Dumoulin & Visin 2016, ch. 4.
    """
    size = kernel.shape[:-2]
    output_places = outputs(places, size, strides, padding)
    _arguments.shape("delta", delta, (len(delta), *output_places, kernel.shape[-1]))
    pads = paddings(padding, places, size, strides)
    spread = dilated(delta, strides)
    extents = [before + n + after for n, (before, after) in zip(places, pads, strict=True)]
    around = [  # so that there are as many windows as places of x~
        (k - 1, extent - length)
        for k, extent, length in zip(size, extents, spread.shape[1:-1], strict=True)
    ]
    spread = jnp.pad(spread, [(0, 0), *around, (0, 0)])
    turned = jnp.flip(kernel, range(len(size))).swapaxes(-1, -2)
    patches = windows(spread, size, (1,) * len(size))
    to_padded = jnp.tensordot(patches, _rows(turned), axes=2)
    return unpadded(to_padded, places, pads, padding)


def dilated(delta: Errors, strides: Sequence[int]) -> Float[Array, "batch *spread features"]:
    """delta with s - 1 zeros between neighbouring places of each axis.

    >>> dilated(jnp.array([1.0, 2.0]).reshape(1, 2, 1), (3,)).ravel().tolist()
    [1.0, 0.0, 0.0, 2.0]
    """
    places = [(n - 1) * s + 1 for n, s in zip(delta.shape[1:-1], strides, strict=True)]
    every = [slice(None, None, s) for s in strides]
    return jnp.zeros((len(delta), *places, delta.shape[-1]), delta.dtype).at[:, *every].set(delta)


def _rows(kernel: Kernel) -> Float[Array, "offsets channels features"]:
    """The kernel as one matrix for each of its offsets."""
    return kernel.reshape(-1, *kernel.shape[-2:])
