"""Backpropagation in batch normalisation, whose every output depends on the whole batch.

Channel by channel, over the m numbers that a batch (and its places) gives,

    mean = sum x / m      var = sum (x - mean)^2 / m
    x^ = (x - mean) / sqrt(var + epsilon)      y = scale x^ + bias

so that x acts on y directly, through the mean, and through the variance.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments

Batch = Float[Array, "*batch channels"]
Channels = Float[Array, " channels"]


class NormBackward(NamedTuple):
    """Gradients of the backward pass of a normalisation."""

    x: Batch  # dC/dx
    scale: Channels  # dC/dscale
    bias: Channels  # dC/dbias


@_arguments.checked
def batch_norm(x: Batch, scale: Channels, bias: Channels, epsilon: float = 1e-5) -> Batch:
    """Normalisation by the batch's own mean and variance, as in training.

    Args:
      x: the batch, of shape (..., channels).
      scale: of shape (channels,).
      bias: of shape (channels,).
      epsilon: added to the variance; at least 0.

    Returns:
      y, of the shape of x.

    Raises:
      ValueError: epsilon is under 0, or scale or bias has another shape.

    Reference: Ioffe & Szegedy, Batch normalization, ICML 2015, algorithm 1.

    >>> x = jnp.array([[0.0], [2.0]])
    >>> print(batch_norm(x, jnp.ones(1), jnp.zeros(1), epsilon=0.0).ravel())
    [-1.  1.]
    """
    for name, values in (("scale", scale), ("bias", bias)):
        _arguments.shape(name, values, x.shape[-1:])
    normalized, _ = _normalized(_rows(x), epsilon)
    return (scale[None] * normalized + bias[None]).reshape(x.shape)


@_arguments.checked
def batch_norm_gradient(
    x: Batch, delta: Batch, scale: Channels, epsilon: float = 1e-5
) -> NormBackward:
    """The gradient through the batch's statistics.

    With g = dC/dx^ = delta scale, and means over the batch,

        dC/dx = (g - mean(g) - x^ mean(g x^)) / sqrt(var + epsilon)

    the second term is what goes through the mean and the third what goes through the variance. Of g
    it takes away the part along (1, ..., 1) and, up to epsilon, the part along x^. What is left is
    divided by the deviation of x, which is what makes gradients explode where the layers before
    shrink it (Yang et al., A mean field theory of batch normalization, ICLR 2019).

    Args:
      x: what was normalised, of shape (..., channels).
      delta: dC/dy, of the shape of x.
      scale: as in `batch_norm`.
      epsilon: as in `batch_norm`.

    Returns:
      dC/dx of the shape of x, dC/dscale and dC/dbias of shape (channels,).

    Raises:
      ValueError: delta or scale has another shape, or epsilon is under 0.

    Reference: Ioffe & Szegedy 2015, sec. 3, whose six equations these are, joined.

    >>> x, delta = jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [0.0]])
    >>> result = batch_norm_gradient(x, delta, jnp.ones(1), epsilon=0.0)
    >>> print(result.x.ravel(), result.scale, result.bias)  # two points are always put at -1 and 1
    [0. 0.] [-1.] [1.]
    """
    _arguments.shape("delta", delta, x.shape)
    _arguments.shape("scale", scale, x.shape[-1:])
    rows, errors = _rows(x), _rows(delta)
    normalized, deviation = _normalized(rows, epsilon)
    g = errors * scale[None]
    through_mean = g.mean(axis=0)[None]
    through_variance = normalized * (g * normalized).mean(axis=0)[None]
    return NormBackward(
        x=((g - through_mean - through_variance) / deviation[None]).reshape(x.shape),
        scale=(errors * normalized).sum(axis=0),
        bias=errors.sum(axis=0),
    )


@_arguments.checked
def frozen_batch_norm_gradient(
    x: Batch,
    delta: Batch,
    scale: Channels,
    mean: Channels,
    var: Channels,
    epsilon: float = 1e-5,
) -> NormBackward:
    """The gradient with running statistics, which are constants.

    `dC/dx = delta scale / sqrt(var + epsilon)`, one example at a time.

    Args:
      x: what was normalised, of shape (..., channels).
      delta: dC/dy, of the shape of x.
      scale: as in `batch_norm`.
      mean: the running mean, of shape (channels,).
      var: the running variance, of shape (channels,).
      epsilon: as in `batch_norm`.

    Returns:
      dC/dx of the shape of x, dC/dscale and dC/dbias of shape (channels,).

    Raises:
      ValueError: a shape is another one, or epsilon is under 0.

    Reference: Ioffe & Szegedy 2015, sec. 3.1, algorithm 2, whose inference it differentiates.
    """
    _arguments.shape("delta", delta, x.shape)
    for name, values in (("scale", scale), ("mean", mean), ("var", var)):
        _arguments.shape(name, values, x.shape[-1:])
    _arguments.between("epsilon", epsilon, 0.0, float("inf"))
    rows, errors = _rows(x), _rows(delta)
    deviation = jnp.sqrt(var + epsilon)
    normalized = (rows - mean[None]) / deviation[None]
    return NormBackward(
        x=(errors * (scale / deviation)[None]).reshape(x.shape),
        scale=(errors * normalized).sum(axis=0),
        bias=errors.sum(axis=0),
    )


def _rows(x: Batch) -> Float[Array, "m channels"]:
    return x.reshape(-1, x.shape[-1])


def _normalized(rows: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """x^, and the sqrt(var + epsilon) that it was divided by."""
    _arguments.between("epsilon", epsilon, 0.0, float("inf"))
    deviation = jnp.sqrt(rows.var(axis=0) + epsilon)
    return (rows - rows.mean(axis=0)[None]) / deviation[None], deviation
