"""Gradients of a loss with, for every layer, the norms of what arrives there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Float

from vanishing.layers import depth_axes
from vanishing.layers.base import PyTree


class LayerNorms(NamedTuple):
    """L2 norms of the gradient of the loss, one row a layer, in float32 or wider."""

    cotangent: Float[Array, "layer"]  # dL/dh, all pre-activations h of the batch: the error signal
    kernel: Float[Array, "layer"]
    bias: Float[Array, "layer"]


class Measured(NamedTuple):
    """What `value_grad_norms` returns."""

    value: Float[Array, ""]
    aux: Any
    grads: PyTree
    norms: LayerNorms


def norm(x: Float[Array, "..."], axis: int | tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """L2 norm over `axis` (by default all), also where the squares leave the range of the dtype.

    In float32 the square of 1e-25 is 0 and that of 1e25 is inf; dividing by the largest magnitude
    first keeps both. The norm is computed in float32 at least, is 0 for x = 0, and inf or nan where
    x has such elements.

    >>> import jax.numpy as jnp
    >>> print(f"{norm(jnp.array([3e-25, 4e-25])):.1e}")
    5.0e-25
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=axis))


def value_grad_norms(
    loss: Callable[[PyTree], tuple[Float[Array, ""], Any]], params: PyTree, batch_size: int
) -> Measured:
    """Value, gradients and per-layer gradient norms of a loss, from one backward pass.

    A bias given one row per example is added to every pre-activation by itself, so its gradient is
    the cotangent dL/dh of each of them; its sum over the batch is the bias's own gradient. No layer
    needs to know that it is watched. Rows are the dicts that hold a `kernel` and a `bias`, in the
    tree order of the parameters (dicts by sorted key, which is forward order in our networks), and
    one row for each step of a `repeat`.

    Args:
      loss: maps parameters to (value, aux), the value from a batch of `batch_size` examples.
      params: parameters of layers whose biases broadcast over a leading batch axis.
      batch_size: examples in the batch that `loss` closes over.

    Returns:
      The value, the aux, the gradients (a tree like `params`), and the norms.

    Reference: the cotangents are the delta^l of Nielsen, Neural networks and deep learning, 2015,
    chapter 2, eq. 30, divided by the number of examples that the loss averages over.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    >>> x = jnp.ones((4, 2))
    >>> loss = lambda p: (jnp.sum(x @ p["kernel"] + p["bias"]), None)
    >>> print(value_grad_norms(loss, params, batch_size=4).norms.cotangent)  # of 4 x 3 ones
    [3.4641016]
    """

    def per_example(path: KeyPath, leaf):
        if not _is(path, "bias"):
            return leaf
        axis = depth_axes(path)
        shape = (*leaf.shape[:axis], batch_size, *leaf.shape[axis:])
        return jnp.broadcast_to(jnp.expand_dims(leaf, axis), shape)

    expanded = jax.tree_util.tree_map_with_path(per_example, params)
    (value, aux), expanded_grads = jax.value_and_grad(loss, has_aux=True)(expanded)
    grads = jax.tree_util.tree_map_with_path(
        lambda path, g: g.sum(depth_axes(path)) if _is(path, "bias") else g, expanded_grads
    )
    norms = LayerNorms(
        cotangent=_rows(expanded_grads, "bias"),
        kernel=_rows(grads, "kernel"),
        bias=_rows(grads, "bias"),
    )
    return Measured(value, aux, grads, norms)


def _rows(tree: PyTree, name: str) -> Float[Array, "layer"]:
    def rows(path: KeyPath, leaf):
        return jnp.ravel(norm(leaf, tuple(range(depth_axes(path), leaf.ndim))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return jnp.concatenate([rows(path, leaf) for path, leaf in leaves if _is(path, name)])


def _is(path: KeyPath, name: str) -> bool:
    return getattr(path[-1], "key", None) == name
