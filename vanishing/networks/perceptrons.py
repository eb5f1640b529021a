"""Multilayer perceptrons."""

from collections.abc import Callable

from vanishing import _arguments, layers
from vanishing.initializers import Weights
from vanishing.layers import Layer
from vanishing.layers.activations import Nonlinearity
from vanishing.networks.blocks import chosen


@_arguments.checked
def mlp(
    outputs: int,
    *,
    depth: int,
    width: int,
    activation: Nonlinearity = "relu",
    weights: Weights | None = None,
    output_activation: Nonlinearity = "identity",
    norm: Layer | None = None,
    wrap: Callable[[Layer], Layer] = lambda block: block,
    wrap_weights: Callable[[Layer], Layer] = lambda weights: weights,
    unroll: bool = False,
) -> Layer:
    """A multilayer perceptron: `depth` hidden layers of equal width, then a linear read-out.

    Parameters are `{"first": ..., "hidden": Stacked, "output": ...}`, where `hidden` holds the
    layers from the second on (absent at depth 1); each has a `dense` with `kernel` and `bias`.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      depth: number of hidden layers; at least 1.
      width: units of every hidden layer; at least 1.
      activation: a name of `layers.ACTIVATIONS`, an elementwise function, or an `Activation`.
      weights: initialisers of all kernels and biases; by default those derived for the
        activation (`Activation.initializer`), LeCun's for a function.
      output_activation: follows the read-out; the losses of `vanishing.losses` with "cross_entropy"
        in their name need none.
      norm: stands between the weights and the nonlinearity of every hidden layer, for instance
        `layers.batch_norm()`.
      wrap: applied to every hidden layer but the first, for instance `layers.residual`.
      wrap_weights: applied to the weights of every hidden layer, for instance
        `layers.weight_standardized`.
      unroll: as for `layers.repeat`: faster steps for small layers, longer compilation.

    Returns:
      A layer from (batch, ...) to (batch, outputs).

    Raises:
      ValueError: a size is no number from 1 on, a name is unknown, or weights are no `Weights`.

    >>> import jax, jax.numpy as jnp
    >>> net = mlp(10, depth=30, width=64, activation="tanh")
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 28, 28)))
    >>> params["hidden"][28]["dense"]["kernel"].shape
    (64, 64)
    """
    _arguments.whole("depth", depth, 1, owner="mlp")
    _arguments.whole("width", width, 1, owner="mlp")
    weights = chosen(weights, layers.facts_of(activation).weights)
    block = layers.serial(
        dense=wrap_weights(layers.dense(width, *weights)),
        **({"norm": norm} if norm else {}),
        activation=layers.activation(activation),
    )
    hidden = {"hidden": layers.repeat(wrap(block), depth - 1, unroll=unroll)} if depth > 1 else {}
    read_out = layers.serial(
        dense=layers.dense(outputs, *weights), activation=layers.activation(output_activation)
    )
    return layers.serial(flatten=layers.flatten(), first=block, **hidden, output=read_out)
