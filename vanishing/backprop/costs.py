"""Errors of the costs at the logits, and the gradients of penalties and of dropout.

A cost joined with the nonlinearity of the last layer has an error that needs no slope: for softmax
with cross-entropy and for sigmoid with binary cross-entropy it is the output minus the target.
The squared error of a sigmoid keeps the factor s'(z), and so learns slowly where it is most wrong.
All costs are means over the examples of a batch, whose errors therefore carry 1/batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vanishing import _arguments
from vanishing.backprop.slopes import sigmoid_slope

Logits = Float[Array, "batch classes"]
Labels = Int[Array, " batch"]


@_arguments.checked
def softmax(logits: Logits) -> Logits:
    """`e^(z_j) / sum_k e^(z_k)`, with the largest logit taken off so that nothing overflows.

    Args:
      logits: z, of shape (batch, classes).

    Returns:
      Of the same shape; each row adds up to 1.

    Reference: Bishop, Pattern recognition and machine learning, 2006, eq. 4.104.

    >>> print(softmax(jnp.array([[1000.0, 1000.0]])))
    [[0.5 0.5]]
    """
    powers = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@_arguments.checked
def softmax_cross_entropy(logits: Logits, labels: Labels) -> Float[Array, ""]:
    """Mean over examples of `log(sum_k e^(z_k)) - z_label`, in nats.

    Args:
      logits: z, of shape (batch, classes).
      labels: integers of shape (batch,), from 0 to classes - 1; the cost of a larger one is nan.

    Raises:
      ValueError: there are not as many labels as examples, or they are no integers.

    Reference: Bishop 2006, eq. 4.108.
    """
    _require_labels(labels, logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    label_logits = jnp.take_along_axis(shifted, labels[:, None], axis=1, mode="fill")[:, 0]
    return (jnp.log(jnp.exp(shifted).sum(axis=1)) - label_logits).mean()


@_arguments.checked
def softmax_cross_entropy_error(logits: Logits, labels: Labels) -> Logits:
    """`delta = (softmax(z) - one-hot label) / batch`.

    The derivative of log-sum-exp is the softmax, that of z_label the one-hot vector.

    Args:
      logits: z of the last layer, of shape (batch, classes).
      labels: integers of shape (batch,), from 0 to classes - 1.

    Returns:
      delta, of the shape of the logits.

    Raises:
      ValueError: there are not as many labels as examples, or they are no integers.

    Reference: Bishop 2006, eq. 4.109.

    >>> print(softmax_cross_entropy_error(jnp.zeros((1, 2)), jnp.array([0])))
    [[-0.5  0.5]]
    """
    _require_labels(labels, logits)
    return (softmax(logits) - _one_hot(labels, logits)) / len(logits)


@_arguments.checked
def binary_cross_entropy(logits: Logits, targets: Logits) -> Float[Array, ""]:
    """Mean over examples of `sum_j log(1 + e^(z_j)) - t_j z_j`, in nats.

    The same as `-t log s(z) - (1 - t) log(1 - s(z))`, since log s(z) = z - log(1 + e^z).

    Args:
      logits: z, of shape (batch, classes).
      targets: t, of the same shape, between 0 and 1.

    Raises:
      ValueError: targets have another shape.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 3, eq. 63.
    """
    _arguments.shape("targets", targets, logits.shape)
    return (jax.nn.softplus(logits) - targets * logits).sum(axis=1).mean()


@_arguments.checked
def binary_cross_entropy_error(logits: Logits, targets: Logits) -> Logits:
    """`delta = (s(z) - t) / batch`: the cost's 1 / s'(z) and the sigmoid's s'(z) cancel.

    Args:
      logits: z of the last layer, of shape (batch, classes).
      targets: t, of the same shape, between 0 and 1.

    Returns:
      delta, of the shape of the logits.

    Raises:
      ValueError: targets have another shape.

    Reference: Nielsen 2015, chapter 3, eq. 66.

    >>> print(binary_cross_entropy_error(jnp.array([[0.0]]), jnp.array([[1.0]])))
    [[-0.5]]
    """
    _arguments.shape("targets", targets, logits.shape)
    return (jax.nn.sigmoid(logits) - targets) / len(logits)


@_arguments.checked
def sigmoid_quadratic(logits: Logits, targets: Logits) -> Float[Array, ""]:
    """Mean over examples of `1/2 sum_j (s(z_j) - t_j)^2`.

    Args:
      logits: z, of shape (batch, classes).
      targets: t, of the same shape.

    Raises:
      ValueError: targets have another shape.

    Reference: Nielsen 2015, chapter 2, eq. 26.
    """
    _arguments.shape("targets", targets, logits.shape)
    return 0.5 * ((jax.nn.sigmoid(logits) - targets) ** 2).sum(axis=1).mean()


@_arguments.checked
def sigmoid_quadratic_error(logits: Logits, targets: Logits) -> Logits:
    """`delta = (s(z) - t) s'(z) / batch`, which vanishes where the sigmoid saturates.

    Args:
      logits: z of the last layer, of shape (batch, classes).
      targets: t, of the same shape.

    Returns:
      delta, of the shape of the logits.

    Raises:
      ValueError: targets have another shape.

    Reference: Nielsen 2015, chapter 2, eq. 30.

    >>> wrong = jnp.array([[10.0]]), jnp.zeros((1, 1))  # and sure of it
    >>> print(f"{sigmoid_quadratic_error(*wrong)[0, 0]:.5f}")
    0.00005
    >>> print(f"{binary_cross_entropy_error(*wrong)[0, 0]:.5f}")
    0.99995
    """
    _arguments.shape("targets", targets, logits.shape)
    return (jax.nn.sigmoid(logits) - targets) * sigmoid_slope(logits) / len(logits)


@_arguments.checked
def l1_gradient(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """The gradient of `sum |w|`: `sign(w)`, as strong for small weights as for large.

    At 0, where every number from -1 to 1 is a subgradient, it is 0, so that a weight that is gone
    stays gone. `jax.grad` takes 1 there.

    Args:
      kernel: w, of any shape.

    Returns:
      Of that shape.

    Reference: Nielsen 2015, chapter 3, eq. 96.

    >>> print(l1_gradient(jnp.array([-0.1, 0.0, 3.0])))
    [-1.  0.  1.]
    """
    return jnp.sign(kernel)


@_arguments.checked
def l2_gradient(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """The gradient of `1/2 sum w^2`: w itself.

    Args:
      kernel: w, of any shape.

    Returns:
      Of that shape.

    Reference: Nielsen 2015, chapter 3, eq. 88.
    """
    return kernel


@_arguments.checked
def dropout(
    x: Float[Array, "*axes"], keep: Bool[Array, "*axes"], rate: float
) -> Float[Array, "*axes"]:
    """`y = keep x / (1 - rate)`: kept numbers are scaled up, so that the mean stays.

    Args:
      x: activations, of any shape.
      keep: of their shape, true with probability 1 - rate.
      rate: of those dropped, in [0, 1).

    Returns:
      y, of the shape of x.

    Raises:
      ValueError: the rate is out of its range, or keep has another shape.

    Reference: Srivastava et al., Dropout, JMLR 2014, sec. 4 and 10 (the inverted form).
    """
    _arguments.shape("keep", keep, x.shape)
    _arguments.between("rate", rate, 0.0, 1.0)
    return jnp.where(keep, x / (1 - rate), 0.0)


@_arguments.checked
def dropout_gradient(
    delta: Float[Array, "*axes"], keep: Bool[Array, "*axes"], rate: float
) -> Float[Array, "*axes"]:
    """`dC/dx = keep delta / (1 - rate)`: the layer is linear, so both passes have one form.

    Args:
      delta: dC/dy, of the shape of x.
      keep: the mask of the forward pass, the same one.
      rate: as in `dropout`.

    Returns:
      dC/dx, of the shape of delta.

    Raises:
      ValueError: as `dropout`.

    Reference: Srivastava et al. 2014, sec. 5.1.

    >>> print(dropout_gradient(jnp.ones(2), jnp.array([True, False]), 0.5))
    [2. 0.]
    """
    return dropout(delta, keep, rate)


def _require_labels(labels: jax.Array, logits: jax.Array) -> None:
    _arguments.shape("labels", labels, logits.shape[:1])
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}; they must be integers, the classes' numbers.")


def _one_hot(labels: Labels, logits: Logits) -> Logits:
    return jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
