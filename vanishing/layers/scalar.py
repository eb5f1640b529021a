"""Layers with one number to learn: a factor, or a term that is added."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers.base import Applied, Layer, Variables
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import linear_gain, unknown


@_arguments.checked
def multiplier(initial: Scalar = 1.0) -> Layer:
    """A learnt scalar that multiplies its input: the parameter `scale`, of shape ().

    At the end of a residual branch and starting at 0, it is the gate of ReZero and of SkipInit:
    `residual(serial(branch, multiplier(0.0)))`.

    Args:
      initial: the value that training starts at.

    Reference: Bachlechner et al., ReZero is all you need, UAI 2021, eq. 2; De & Smith, Batch
    normalization biases residual blocks towards the identity function in deep networks, NeurIPS
    2020, sec. 4.

    >>> import jax
    >>> layer = multiplier(0.5)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones(3))
    >>> print(layer.apply(params, state, jnp.ones(3)).output)
    [0.5 0.5 0.5]
    """

    def init(key, x):
        del key  # nothing is random
        return Variables(params={"scale": jnp.full((), initial, x.dtype)}, state={})

    def apply(params, state, x: Float[Any, "..."], key=None, train=False):
        del key, train  # deterministic, and the same in training
        return Applied(params["scale"] * x, state)

    def propagate(signal: Signal) -> Signal:
        return signal.scaled(
            q=jnp.square(initial),
            difference=jnp.square(initial) * signal.decorrelation,
            mean=initial * signal.relative_mean,
            gain=linear_gain(signal, jnp.square(initial)),
            has_parameters=True,
        )

    return Layer(init, apply, propagate)


@_arguments.checked
def shift(initial: Scalar = 0.0) -> Layer:
    """A learnt scalar that is added to its input: the parameter `bias`, of shape ().

    Theory follows it from its usual start, 0, where it changes nothing.

    Args:
      initial: the value that training starts at.

    Reference: Zhang, Dauphin & Ma, Fixup initialization, ICLR 2019, sec. 3, rule 3.

    >>> import jax
    >>> layer = shift()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones(3))
    >>> print(layer.apply({"bias": params["bias"] + 1}, state, jnp.ones(3)).output)
    [2. 2. 2.]
    """

    def init(key, x):
        del key  # nothing is random
        return Variables(params={"bias": jnp.full((), initial, x.dtype)}, state={})

    def apply(params, state, x: Float[Any, "..."], key=None, train=False):
        del key, train  # deterministic, and the same in training
        return Applied(x + params["bias"], state)

    def propagate(signal: Signal) -> Signal:
        if initial != 0:
            raise unknown(f"theory follows a shift that starts at 0, not at {initial}.", signal)
        return signal

    return Layer(init, apply, propagate)
