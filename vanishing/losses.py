"""Losses and scores over a batch, and penalties over the weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vanishing import _arguments
from vanishing._types import PyTree

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
    """Share of the labels, 0 to 1, whose output is the largest.

    >>> print(accuracy(jnp.eye(4), jnp.array([0, 1, 2, 0])))
    0.75
    """
    _arguments.shape("labels", labels, outputs.shape[:-1])
    return jnp.mean(jnp.argmax(outputs, -1) == labels, dtype=outputs.dtype)


@_arguments.checked
def l1(params: PyTree) -> Float[Array, ""]:
    """sum |w| over the weights: the leaves named `kernel`, so never a bias."""
    return sum((jnp.sum(jnp.abs(kernel)) for kernel in _kernels(params)), jnp.zeros(()))


@_arguments.checked
def l2(params: PyTree) -> Float[Array, ""]:
    """1/2 sum w^2 over the weights (the leaves named `kernel`), whose gradient is w itself."""
    return sum(
        (jnp.sum(optax.losses.l2_loss(kernel)) for kernel in _kernels(params)), jnp.zeros(())
    )


def _kernels(params: PyTree) -> list[Array]:
    return [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path and getattr(path[-1], "key", None) == "kernel"
    ]
