"""Convolutional networks: that of introductory texts, residual and plain ones, vanilla ones."""

import functools
import math

import jax.numpy as jnp

from vanishing import _arguments, layers
from vanishing.initializers import Weights, delta_orthogonal, normal
from vanishing.layers import Layer
from vanishing.layers.activations import Nonlinearity
from vanishing.networks.blocks import block, chosen, ends

STAGES = 3  # of a residual network; each has half the places and twice the channels of the last


@_arguments.checked
def cnn(
    outputs: int,
    *,
    channels: int = 32,
    activation: Nonlinearity = "relu",
    weights: Weights | None = None,
) -> Layer:
    """The CNN of introductory texts: 3 x 3 convolution, nonlinearity, max-pooling, read-out.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      channels: of the convolution; at least 1.
      activation: as for `networks.mlp`.
      weights: as for `networks.mlp`.

    Returns:
      A layer from (batch, height, width, channels) to (batch, outputs).

    >>> import jax
    >>> net = cnn(10)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((4, 28, 28, 1)))
    >>> params["output"]["dense"]["kernel"].shape
    (6272, 10)
    """
    weights = chosen(weights, layers.facts_of(activation).weights)
    return layers.serial(
        conv=layers.conv(channels, (3, 3), **weights._asdict()),
        activation=layers.activation(activation),
        pool=layers.max_pool((2, 2)),
        flatten=layers.flatten(),
        output=layers.serial(dense=layers.dense(outputs, *weights)),
    )


@_arguments.checked
def resnet(
    outputs: int,
    *,
    depth: int = 20,
    width: int = 16,
    kind: str = "post_activation",
    activation: Nonlinearity = "relu",
    weights: Weights | None = None,
    norm: Layer | None = layers.batch_norm(),
) -> Layer:
    """The residual network for small images: 6 n + 2 layers, in three stages of n blocks.

    A 3 x 3 convolution, the stages, the mean over all places, and a linear read-out. Each stage
    after the first begins with a stride of 2 and twice the channels, where the shortcut takes every
    second place and fills the new channels with zeros, which needs no parameters ("option A").

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      depth: layers with weights: 8, 14, 20, 32, 44, 56, 110, ...
      width: channels of the first stage; at least 1.
      kind: of its blocks, one of `networks.BLOCKS`.
      activation: as for `networks.mlp`.
      weights: as for `networks.mlp`.
      norm: as for `networks.mlp`; None for fixup.

    Returns:
      A layer from (batch, height, width, channels) to (batch, outputs).

    Raises:
      ValueError: depth is not 6 n + 2, the kind is unknown, or fixup got a norm.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, sec. 4.2.

    >>> import jax
    >>> net = resnet(10, depth=20)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((4, 32, 32, 3)))
    >>> params["stage_3"]["rest"][1]["sum"]["second"]["weight"]["kernel"].shape
    (3, 3, 64, 64)
    """
    _arguments.whole("width", width, 1, owner="resnet")
    _arguments.whole("depth", depth, 1, owner="resnet")
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"resnet has depth {depth}; it must be 6 n + 2: 8, 14, 20, 26, 32, ...")
    per_stage = (depth - 2) // 6
    weights = chosen(weights, layers.facts_of(activation).weights)

    def convolution(channels: int, strides: int = 1):
        return lambda weights: layers.conv(channels, (3, 3), strides=strides, **weights._asdict())

    make = functools.partial(
        block, kind, blocks=STAGES * per_stage, activation=activation, weights=weights, norm=norm
    )

    def stage(number: int) -> Layer:
        channels = width * 2**number
        same = make(weight=convolution(channels))
        if number == 0:
            return layers.serial(rest=layers.repeat(same, per_stage))
        narrower = make(
            weight=convolution(channels),
            into=convolution(channels, strides=2),
            shortcut=None if kind == "plain" else subsample(channels),
        )
        rest = {"rest": layers.repeat(same, per_stage - 1)} if per_stage > 1 else {}
        return layers.serial(down=narrower, **rest)

    around = ends(kind, layers.activation(activation), norm, weights)
    return layers.serial(
        first=layers.serial(conv=convolution(width)(weights), **around.before),
        **{f"stage_{number + 1}": stage(number) for number in range(STAGES)},
        **around.after,
        mean=layers.global_avg_pool(),
        output=layers.serial(dense=layers.dense(outputs, *around.read_out)),
    )


@_arguments.checked
def plain_cnn(outputs: int, **options) -> Layer:
    """`resnet` without shortcuts; it takes the same options but `kind`."""
    return resnet(outputs, kind="plain", **options)


def subsample(channels: int, strides: int = 2) -> Layer:
    """Every second place of an image, with zeros in the added channels.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, sec. 4.1, (A).
    """

    def take(x):
        x = x[:, ::strides, ::strides, :]
        return jnp.pad(x, [(0, 0)] * 3 + [(0, channels - x.shape[-1])])

    return layers.stateless(take)


# A point of tanh's critical line near the linear regime, as variances (Pennington et al. 2017; the
# demonstration of Xiao et al. 2018 has the same).
_SIGMA_W2, _SIGMA_B2 = 1.05, 2.01e-5


@_arguments.checked
def vanilla_cnn(
    outputs: int,
    *,
    depth: int,
    channels: int = 16,
    reductions: int = 1,
    activation: Nonlinearity = "tanh",
    weights: Weights | None = None,
) -> Layer:
    """A deep convolutional network with neither shortcuts nor norms.

    Convolutions with a stride of 2, then `depth` of 3 x 3 with circular padding, the mean over all
    places, and a linear read-out. With delta-orthogonal kernels, which are zero but for an
    orthogonal matrix in their middle, at a critical scale, it trains at any depth.

    Args:
      outputs: width of the output, such as the number of classes; at least 1.
      depth: of the convolutions that keep the size of the image; at least 1.
      channels: of all convolutions; at least as many as the image has.
      reductions: how many convolutions of stride 2 come first; at least 0.
      activation: as for `networks.mlp`.
      weights: initialisers of the convolutions; by default delta-orthogonal at a critical point of
        tanh (sigma_w^2 = 1.05, sigma_b^2 = 2.01e-5).

    Returns:
      A layer from (batch, height, width, channels) to (batch, outputs).

    Raises:
      ValueError: depth is under 1, or an image has more channels than the convolutions.

    Reference: Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018, sec. 3.

    >>> import jax
    >>> net = vanilla_cnn(10, depth=100)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((4, 8, 8, 1)))
    >>> params["hidden"][98]["conv"]["kernel"].shape
    (3, 3, 16, 16)
    """
    _arguments.whole("depth", depth, 1, owner="vanilla_cnn")
    _arguments.whole("reductions", reductions, 0, owner="vanilla_cnn")
    default = Weights(delta_orthogonal(math.sqrt(_SIGMA_W2)), normal(math.sqrt(_SIGMA_B2)))
    weights = chosen(weights, default)

    def layer(strides: int, padding: str) -> Layer:
        conv = layers.conv(channels, (3, 3), strides=strides, padding=padding, **weights._asdict())
        return layers.serial(conv=conv, activation=layers.activation(activation))

    reducing = {f"reduce_{i + 1}": layer(2, "SAME") for i in range(reductions)}
    return layers.serial(
        **reducing,
        first=layer(1, "CIRCULAR"),
        **({"hidden": layers.repeat(layer(1, "CIRCULAR"), depth - 1)} if depth > 1 else {}),
        mean=layers.global_avg_pool(),
        output=layers.serial(dense=layers.dense(outputs)),
    )
