"""Weight standardisation: a layer whose kernel has mean 0 and a fixed size for every output."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from vanishing import _arguments
from vanishing._types import PyTree
from vanishing.layers.base import Layer, Variables, require_layer
from vanishing.layers.base import propagate as layers_propagate
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import linear_gain

Leaf = jax.Array | np.ndarray


@_arguments.checked
def weight_standardized(layer: Layer, gain: float = 1.0, epsilon: float = 1e-4) -> Layer:
    """A linear layer that uses its kernel standardised over the inputs of each output unit.

    It uses `gain * scale * (kernel - mean) / sqrt(max(var * fan_in, epsilon))`, where mean and var
    are those of the fan_in weights of the unit. Parameters are the layer's own, and a `scale` of
    shape (features,), which starts at 1.

    Theory follows it as it does the layer, with two differences: the weights of a unit sum to 0, so
    the mean of the input is lost; and the scale of the kernel's initialiser does not count.

    Args:
      layer: one with a parameter `kernel` whose last axis is that of its outputs, such as `dense`
        or `conv`.
      gain: of the activation before it, whose root-mean-square deviation it makes up for: between
        layers of ReLU, sqrt(2 / (1 - 1 / pi)) keeps the signal, and sqrt(2) the gradient.
      epsilon: least sum of squares of a unit's weights by which to divide; over 0.

    Raises:
      ValueError: `epsilon` is not positive, or the layer has no `kernel`.

    Reference: Brock, De & Smith, Characterizing signal propagation to close the performance gap in
    unnormalized ResNets, ICLR 2021, sec. 4.1 (scaled weight standardisation), after Qiao et al.,
    Micro-batch training with batch-channel normalization and weight standardization, 2019.

    >>> from vanishing.layers import dense
    >>> layer = weight_standardized(dense(3))
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> sorted(params)
    ['bias', 'kernel', 'scale']
    >>> print(jnp.abs(layer.apply(params, state, jnp.ones((1, 4))).output).max() < 1e-6)
    True
    """
    require_layer("layer", layer)
    _arguments.over("epsilon", epsilon, 0, owner="weight_standardized")

    def init(key, x):
        params, state = layer.init(key, x)
        _require_kernel(params)
        kernel = params["kernel"]
        return Variables(
            params=params | {"scale": jnp.ones(kernel.shape[-1:], kernel.dtype)}, state=state
        )

    def apply(params, state, x, key=None, train=False):
        own = {name: leaf for name, leaf in params.items() if name != "scale"}
        own["kernel"] = _standardized(params["kernel"], gain * params["scale"], epsilon)
        return layer.apply(own, state, x, key, train)

    def propagate(signal: Signal) -> Signal:
        x = jax.ShapeDtypeStruct((1, *signal.shape), signal.log_q.dtype)
        _require_kernel(jax.eval_shape(lambda: layer.init(jax.random.key(0), x)).params)
        silence = replace(signal.restarted(), log_q=jnp.full_like(signal.log_q, -jnp.inf))
        own = layers_propagate(layer, silence)  # its output is the bias alone
        # relative to the larger of signal and bias, as in a dense layer
        unit = jnp.maximum(signal.log_q, own.log_q)
        unit = jnp.where(jnp.isfinite(unit), unit, 0.0)
        sigma_w2 = jnp.exp(own.gain.log_of(jnp.array([1.0, 0.0, 0.0, 0.0])))
        square = gain**2 * jnp.minimum(sigma_w2 / epsilon, 1.0)
        from_signal = square * jnp.exp(signal.log_q - unit)
        return signal.scaled(
            q=from_signal * (1 - signal.relative_mean**2) + jnp.exp(own.log_q - unit),
            difference=from_signal * signal.decorrelation,  # two inputs have the same mean
            mean=0.0,
            log_unit=unit,
            gain=linear_gain(signal, square, own.gain.log_variance),
            shape=own.shape,
            gaussian=True,
            fresh=True,
            has_parameters=True,
        )

    return Layer(init, apply, propagate)


def _standardized(kernel: Leaf, factor: Leaf, epsilon: float) -> jax.Array:
    axes = tuple(range(kernel.ndim - 1))
    fan_in = kernel.size // kernel.shape[-1]
    mean, var = (jnp.broadcast_to(f(kernel, axes), kernel.shape) for f in (jnp.mean, jnp.var))
    size = jax.lax.rsqrt(jnp.maximum(var * fan_in, epsilon))
    return size * (kernel - mean) * jnp.broadcast_to(factor, kernel.shape)


def _require_kernel(params: PyTree) -> None:
    names = params if isinstance(params, dict) else ()
    if "kernel" not in names or "scale" in names:
        raise ValueError(
            "weight_standardized takes a layer whose parameters have a kernel and no scale, such "
            f"as dense or conv, but those of this layer are {', '.join(names) or 'no names'}; put "
            "it around the linear layer alone."
        )
