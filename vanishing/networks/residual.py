"""The multilayer perceptron made of blocks: residual, gated, or plain for comparison."""

from vanishing import _arguments, layers
from vanishing.initializers import Weights
from vanishing.layers import Layer
from vanishing.layers.activations import Nonlinearity
from vanishing.networks.blocks import block, chosen, ends


@_arguments.checked
def residual_mlp(
    outputs: int,
    *,
    kind: str,
    blocks: int,
    width: int,
    activation: Nonlinearity = "relu",
    weights: Weights | None = None,
    norm: Layer | None = None,
    gate_bias: float = -2.0,
) -> Layer:
    """A dense layer that reads the input, blocks of two dense layers, and a linear read-out.

    Parameters are `{"first": ..., "hidden": Stacked, "output": ...}`, where `hidden` holds the
    blocks; around them are the layers of `networks.blocks.ends`.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      kind: one of `networks.BLOCKS`; see `networks.block`.
      blocks: how many; at least 1.
      width: units of every hidden layer; at least 1.
      activation: as for `networks.mlp`.
      weights: as for `networks.mlp`.
      norm: as for `networks.mlp`; not with fixup.
      gate_bias: of a highway's gate as training starts.

    Returns:
      A layer from (batch, ...) to (batch, outputs).

    Raises:
      ValueError: a size is under 1, the kind is unknown, or fixup got a norm.

    >>> import jax, jax.numpy as jnp
    >>> net = residual_mlp(10, kind="rezero", blocks=20, width=64)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 28, 28)))
    >>> params["hidden"][19]["multiplier"]["scale"]
    Array(0., dtype=float32)
    """
    _arguments.whole("width", width, 1, owner="residual_mlp")
    weights = chosen(weights, layers.facts_of(activation).weights)
    repeated = block(
        kind,
        lambda weights: layers.dense(width, *weights),
        blocks=blocks,
        activation=activation,
        weights=weights,
        norm=norm,
        gate_bias=gate_bias,
    )
    around = ends(kind, layers.activation(activation), norm, weights)
    return layers.serial(
        flatten=layers.flatten(),
        first=layers.serial(dense=layers.dense(width, *weights), **around.before),
        hidden=layers.repeat(repeated, blocks),
        **around.after,
        output=layers.serial(dense=layers.dense(outputs, *around.read_out)),
    )
