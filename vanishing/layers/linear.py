"""Linear layers: dense, and the reshaping that leads into it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vanishing.layers.base import Applied, Layer, Variables, stateless

Initializer = jax.nn.initializers.Initializer


def dense(
    features: int,
    kernel_init: Initializer = jax.nn.initializers.lecun_normal(),
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """The affine map of the last axis, `x @ kernel + bias`.

    Parameters are a dict spelt as Flax spells it: `kernel` of shape (fan_in, features) and `bias`
    of shape (features,), of the dtype of the input that `init` was given.

    Args:
      features: width of the output; at least 1.
      kernel_init: an initialiser of `jax.nn.initializers`' form, `(key, shape, dtype) -> array`.
      bias_init: the same for the bias.

    Returns:
      A layer from (..., fan_in) to (..., features).

    Raises:
      ValueError: `features` is under 1; the input is no vector of floating-point numbers, or its
        width is not that of the kernel.

    >>> layer = dense(3)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> layer.apply(params, state, jnp.ones((8, 2))).output.shape
    (8, 3)
    """
    if features < 1:
        raise ValueError(f"dense has {features} features; it must have at least 1.")

    def init(key, x):
        if len(x.shape) < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"dense takes vectors of floating-point numbers, but its input is {x.dtype} of "
                f"shape {x.shape}; convert it, for instance with x.astype(jnp.float32)."
            )
        kernel_key, bias_key = jax.random.split(key)
        params = {
            "kernel": kernel_init(kernel_key, (x.shape[-1], features), x.dtype),
            "bias": bias_init(bias_key, (features,), x.dtype),
        }
        return Variables(params=params, state={})

    def apply(
        params, state, x: Float[jax.Array | np.ndarray, "*batch fan_in"], key=None, train=False
    ):
        del key, train  # deterministic, and the same in training
        kernel, bias = params["kernel"], params["bias"]
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError(
                f"dense was initialised for inputs of width {kernel.shape[0]}, but x has shape "
                f"{x.shape}; initialise it with an input of the width that it will be given."
            )
        pre_activation = x @ kernel
        return Applied(pre_activation + jnp.broadcast_to(bias, pre_activation.shape), state)

    return Layer(init, apply)


def flatten() -> Layer:
    """Joins all axes but the first into one: (batch, ...) to (batch, features)."""
    return stateless(lambda x: x.reshape(x.shape[0], math.prod(x.shape[1:])))
