"""Backpropagation in a dense network: its four equations, and the two passes built on them.

A batch is a matrix of one example a row, so that a layer is

    z^l = a^(l-1) W^l + b^l        a^l = f(z^l)        a^0 = x

with W^l of shape (fan_in, fan_out). The error of a layer is `delta^l = dC/dz^l`, the cotangent of
its pre-activations, of their shape (batch, fan_out). C is the cost of the whole batch: where it is
a mean over examples, its 1/batch is in delta^L already and nowhere else.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing.backprop.slopes import slope_of
from vanishing.layers import ACTIVATIONS

Params = Sequence[dict[str, Array]]  # of each layer its `kernel` and `bias`, from first to last


@_arguments.checked
def output_error(
    cost_gradient: Float[Array, "batch fan_out"], slope: Float[Array, "batch fan_out"]
) -> Float[Array, "batch fan_out"]:
    """The error of the last layer, `delta^L = dC/da^L * f'(z^L)`.

    Args:
      cost_gradient: dC/da^L, the gradient of the cost with respect to the network's output.
      slope: f'(z^L), element by element.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 2, eq. BP1.

    >>> import jax.numpy as jnp
    >>> print(output_error(jnp.array([[2.0, -1.0]]), jnp.array([[0.25, 0.1]])))
    [[ 0.5 -0.1]]
    """
    return cost_gradient * slope


@_arguments.checked
def error_backwards(
    delta: Float[Array, "batch fan_out"],
    kernel: Float[Array, "fan_in fan_out"],
    slope: Float[Array, "batch fan_in"],
) -> Float[Array, "batch fan_in"]:
    """The error one layer earlier, `delta^(l-1) = (delta^l W^l^T) * f'(z^(l-1))`.

    Here the gradient vanishes or explodes: every layer multiplies it by its weights and its slopes.

    Args:
      delta: delta^l, of the layer behind.
      kernel: W^l, which reads what layer l - 1 puts out.
      slope: f'(z^(l-1)), element by element.

    Reference: Nielsen 2015, chapter 2, eq. BP2.
    """
    return (delta @ kernel.T) * slope


@_arguments.checked
def bias_gradient(delta: Float[Array, "batch fan_out"]) -> Float[Array, " fan_out"]:
    """The gradient of the biases, `dC/db^l = sum over examples of delta^l`.

    Args:
      delta: delta^l.

    Reference: Nielsen 2015, chapter 2, eq. BP3.
    """
    return delta.sum(axis=0)


@_arguments.checked
def weight_gradient(
    activations: Float[Array, "batch fan_in"], delta: Float[Array, "batch fan_out"]
) -> Float[Array, "fan_in fan_out"]:
    """The gradient of the weights, `dC/dW^l = a^(l-1)^T delta^l`: a sum over the examples.

    Args:
      activations: a^(l-1), what the layer reads.
      delta: delta^l.

    Reference: Nielsen 2015, chapter 2, eq. BP4.
    """
    return activations.T @ delta


class Forward(NamedTuple):
    """Values of the forward pass that the backward pass reads."""

    pre_activations: list[Float[Array, "batch fan_out"]]  # z^1 to z^L
    activations: list[Float[Array, "batch fan_out"]]  # a^0 = x to a^L, the output: one more


class Backward(NamedTuple):
    """Errors and gradients of the backward pass."""

    deltas: list[Float[Array, "batch fan_out"]]  # delta^1 to delta^L
    params: list[dict[str, Array]]  # dC/dW^l and dC/db^l as `kernel` and `bias`, in order
    x: Float[Array, "batch fan_in"]  # dC/dx


@_arguments.checked(activation=None)
def forward(params: Params, x: Float[Array, "batch fan_in"], activation: Sequence[str]) -> Forward:
    """The forward pass, `z^l = a^(l-1) W^l + b^l` and `a^l = f(z^l)`, layer by layer.

    Args:
      params: `kernel` W of shape (fan_in, fan_out) and `bias` b of shape (fan_out,) of every layer.
      x: a^0, the batch.
      activation: for each layer a name of `SLOPES`; "identity" for one that puts out logits.

    Returns:
      `pre_activations`, z^1 to z^L, and `activations`, one more: a^0 = x, then a^1 to a^L.

    Raises:
      ValueError: there are not as many activations as layers, or one is unknown.
    """
    _require_names(params, activation)
    passed = Forward(pre_activations=[], activations=[x])
    for layer, name in zip(params, activation, strict=True):
        z = passed.activations[-1] @ layer["kernel"] + layer["bias"][None]
        passed.pre_activations.append(z)
        passed.activations.append(ACTIVATIONS[name].function(z))
    return passed


@_arguments.checked(activation=None)
def backward(
    params: Params,
    passed: Forward,
    cost_gradient: Float[Array, "batch fan_out"],
    activation: Sequence[str],
) -> Backward:
    """The backward pass: the first equation once, then the other three at every layer.

    Args:
      params: as given to `forward`.
      passed: what `forward` returned.
      cost_gradient: dC/da^L, of the cost with respect to the output, of its shape.
      activation: as given to `forward`.

    Returns:
      All delta, of shape (batch, fan_out), and the gradients of the parameters and of x.

    Raises:
      ValueError: there are not as many activations as layers, one is unknown, or the cost's
        gradient has another shape than the output.

    >>> import jax.numpy as jnp
    >>> params = [{"kernel": jnp.full((1, 1), 2.0), "bias": jnp.zeros(1)}] * 3
    >>> passed = forward(params, jnp.zeros((1, 1)), ["identity"] * 3)
    >>> result = backward(params, passed, jnp.ones((1, 1)), ["identity"] * 3)
    >>> print([float(delta[0, 0]) for delta in result.deltas], float(result.x[0, 0]))
    [4.0, 2.0, 1.0] 8.0
    """
    _require_names(params, activation)
    _arguments.shape("cost_gradient", cost_gradient, passed.activations[-1].shape)
    slopes = [slope_of(name)(z) for name, z in zip(activation, passed.pre_activations, strict=True)]
    deltas = [output_error(cost_gradient, slopes[-1])]
    for layer, slope in zip(reversed(params[1:]), reversed(slopes[:-1]), strict=True):
        deltas.insert(0, error_backwards(deltas[0], layer["kernel"], slope))
    gradients = [
        {"kernel": weight_gradient(a, delta), "bias": bias_gradient(delta)}
        for a, delta in zip(passed.activations[:-1], deltas, strict=True)
    ]
    return Backward(deltas=deltas, params=gradients, x=deltas[0] @ params[0]["kernel"].T)


def _require_names(params: Params, activation: Sequence[str]) -> None:
    names = isinstance(activation, Sequence) and not isinstance(activation, str)
    if not names or len(activation) != len(params) or not params:
        raise ValueError(
            f"activation is {_arguments.described(activation)}; it must be a list of "
            f"{len(params)} names, one for each layer of params, of at least one."
        )
    for name in activation:
        slope_of(name)
