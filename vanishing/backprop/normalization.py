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

Batch = Float[Array, "*batch channels"]
Channels = Float[Array, " channels"]


class Backward(NamedTuple):
    """What the backward pass of a normalisation finds."""

    x: Batch  # dC/dx
    scale: Channels  # dC/dscale
    bias: Channels  # dC/dbias


def batch_norm(x: Batch, scale: Channels, bias: Channels, epsilon: float = 1e-5) -> Batch:
    """Normalisation by the batch's own mean and variance, as in training.

    Args:
      x: the batch; channels are its last axis.
      scale: of shape (channels,).
      bias: of shape (channels,).
      epsilon: added to the variance.

    Reference: Ioffe & Szegedy, Batch normalization, ICML 2015, algorithm 1.

    >>> x = jnp.array([[0.0], [2.0]])
    >>> print(batch_norm(x, jnp.ones(1), jnp.zeros(1), epsilon=0.0).ravel())
    [-1.  1.]
    """
    normalized, _ = _normalized(_rows(x), epsilon)
    return (scale[None] * normalized + bias[None]).reshape(x.shape)


def batch_norm_gradient(x: Batch, delta: Batch, scale: Channels, epsilon: float = 1e-5) -> Backward:
    """The gradient through the batch's statistics.

    With g = dC/dx^ = delta scale, and means over the batch,

        dC/dx = (g - mean(g) - x^ mean(g x^)) / sqrt(var + epsilon)

    the second term is what goes through the mean and the third what goes through the variance: of g
    everything is kept but its parts along (1, ..., 1) and along x^. The division is why a norm
    makes gradients explode: it undoes the scale of the weights before it.

    Args:
      x: what was normalised.
      delta: dC/dy, of the shape of x.
      scale: as in `batch_norm`.
      epsilon: as in `batch_norm`.

    Reference: Ioffe & Szegedy 2015, sec. 3, whose six equations these are, joined.

    >>> x, delta = jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [0.0]])
    >>> found = batch_norm_gradient(x, delta, jnp.ones(1), epsilon=0.0)
    >>> print(found.x.ravel(), found.scale, found.bias)  # two points are always put at -1 and 1
    [0. 0.] [-1.] [1.]
    """
    rows, errors = _rows(x), _rows(delta)
    normalized, deviation = _normalized(rows, epsilon)
    g = errors * scale[None]
    through_mean = g.mean(axis=0)[None]
    through_variance = normalized * (g * normalized).mean(axis=0)[None]
    return Backward(
        x=((g - through_mean - through_variance) / deviation[None]).reshape(x.shape),
        scale=(errors * normalized).sum(axis=0),
        bias=errors.sum(axis=0),
    )


def frozen_batch_norm_gradient(
    x: Batch,
    delta: Batch,
    scale: Channels,
    mean: Channels,
    var: Channels,
    epsilon: float = 1e-5,
) -> Backward:
    """The gradient where running statistics take the batch's place: they are constants.

    `dC/dx = delta scale / sqrt(var + epsilon)`, one example at a time.

    Args:
      x: what was normalised.
      delta: dC/dy, of the shape of x.
      scale: as in `batch_norm`.
      mean: the running mean, of shape (channels,).
      var: the running variance, of shape (channels,).
      epsilon: as in `batch_norm`.
    """
    rows, errors = _rows(x), _rows(delta)
    deviation = jnp.sqrt(var + epsilon)
    normalized = (rows - mean[None]) / deviation[None]
    return Backward(
        x=(errors * (scale / deviation)[None]).reshape(x.shape),
        scale=(errors * normalized).sum(axis=0),
        bias=errors.sum(axis=0),
    )


def _rows(x: Batch) -> Float[Array, "m channels"]:
    return x.reshape(-1, x.shape[-1])


def _normalized(rows: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """x^, and the sqrt(var + epsilon) that it was divided by."""
    deviation = jnp.sqrt(rows.var(axis=0) + epsilon)
    return (rows - rows.mean(axis=0)[None]) / deviation[None], deviation
