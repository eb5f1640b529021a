"""Losses and scores over a batch, and penalties over the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vanishing import _arguments
from vanishing._types import DEPTH, PyTree

Labels = Int[Array | np.ndarray, "*batch"]  # a class for each example
Outputs = Float[Array | np.ndarray, "*batch features"]  # of a network, such as logits
Loss = Callable[[Outputs, Labels], Float[Array, ""]]  # the mean over a batch


@_arguments.checked
def mean_squared_error(outputs: Outputs, targets: Outputs) -> Float[Array, ""]:
    """mean((outputs - targets)^2), over the examples and their features alike."""
    _arguments.shape("targets", targets, outputs.shape)
    return jnp.mean(jnp.square(outputs - targets))


@_arguments.checked
def quadratic(outputs: Outputs, targets: Outputs) -> Float[Array, ""]:
    """The textbooks' cost: mean over examples of 1/2 |outputs - targets|^2.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 2, eq. 26.
    """
    _arguments.shape("targets", targets, outputs.shape)
    return jnp.mean(jnp.sum(optax.losses.l2_loss(outputs, targets), axis=-1))


@_arguments.checked
def binary_cross_entropy(logits: Outputs, targets: Outputs) -> Float[Array, ""]:
    """Mean over examples of -sum_j t_j log sigmoid(z_j) + (1 - t_j) log sigmoid(-z_j), in nats.

    Every feature is a question of its own, answered by a sigmoid of its logit; the sigmoid is part
    of the loss, so the network ends without one.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 3, eq. 63.
    """
    _arguments.shape("targets", targets, logits.shape)
    return jnp.mean(jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, targets), axis=-1))


@_arguments.checked
def softmax_cross_entropy(logits: Outputs, labels: Labels) -> Float[Array, ""]:
    """Mean over examples of -log softmax(logits)[label], in nats; labels are integers.

    >>> print(softmax_cross_entropy(jnp.zeros((4, 10)), jnp.arange(4)))  # log(10)
    2.3025851
    """
    _arguments.shape("labels", labels, logits.shape[:-1])
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


@_arguments.checked
def of_labels(loss: Callable[[Outputs, Outputs], Float[Array, ""]]) -> Loss:
    """A loss of integer labels, from a loss whose target is their one-hot encoding."""

    def labelled(outputs: Outputs, labels: Labels) -> Float[Array, ""]:
        _arguments.shape("labels", labels, outputs.shape[:-1])
        return loss(outputs, jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype))

    return labelled


LOSSES: dict[str, Loss] = {  # all take integer labels
    "softmax_cross_entropy": softmax_cross_entropy,
    "binary_cross_entropy": of_labels(binary_cross_entropy),
    "mean_squared_error": of_labels(mean_squared_error),
    "quadratic": of_labels(quadratic),
}


@_arguments.checked
def accuracy(outputs: Outputs, labels: Labels) -> Float[Array, ""]:
    """Share of the labels, 0 to 1, whose output is the largest; with a nan among them it is not.

    >>> print(accuracy(jnp.eye(4), jnp.array([0, 1, 2, 0])))
    0.75
    """
    _arguments.shape("labels", labels, outputs.shape[:-1])
    known = ~jnp.any(jnp.isnan(outputs), -1)  # argmax takes nan for the largest
    return jnp.mean((jnp.argmax(outputs, -1) == labels) & known, dtype=outputs.dtype)


@_arguments.checked
def l1(params: PyTree) -> Float[Array, ""]:
    """sum |w| over the weights: arrays of at least two axes, depth not counted, so no biases.

    Raises:
      ValueError: there are parameters, and none of them is a weight.

    >>> print(l1({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}))
    6.0
    """
    return sum((jnp.sum(jnp.abs(kernel)) for kernel in _kernels(params)), jnp.zeros(()))


@_arguments.checked
def l2(params: PyTree) -> Float[Array, ""]:
    """1/2 sum w^2 over the weights (see `l1`), whose gradient is w itself.

    Raises:
      ValueError: as for `l1`.
    """
    return sum(
        (jnp.sum(optax.losses.l2_loss(kernel)) for kernel in _kernels(params)), jnp.zeros(())
    )


def _kernels(params: PyTree) -> list[Array]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if _is_kernel(path, leaf)]
    if leaves and not kernels:
        raise ValueError(
            f"params has {len(leaves)} arrays, and none of two axes or more; there must be weights "
            "to penalise."
        )
    return kernels


def _is_kernel(path: jax.tree_util.KeyPath, leaf: Any) -> bool:
    """Whether a leaf is weights, with an axis of inputs: by its rank, whatever its name.

    A bias or a scale of a repeated layer has an axis of depth too, which a `Stacked` says and the
    modules of Flax do not; those are known by their names there.
    """
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    is_vector = bool(names) and names[-1] in ("bias", "scale")
    return np.ndim(leaf) - names.count(DEPTH) >= 2 and not is_vector
