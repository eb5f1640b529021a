"""The derivatives of the activations, written out: the factors of a gradient.

Each maps pre-activations z of any shape to f'(z) of that shape and dtype; s is the sigmoid.
"""

import math

import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Elementwise


def sigmoid_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """`s(z) (1 - s(z))`, with 1 - s(z) as s(-z), which does not cancel; at most 1/4.

    >>> print(sigmoid_slope(jnp.array([0.0, 6.0])))
    [0.25       0.00246651]
    """
    return sigmoid(z) * sigmoid(-z)


def tanh_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 - tanh(z)^2 = 4 s(2 z) s(-2 z)`, of which the latter does not cancel; at most 1.

    >>> print(f"{tanh_slope(jnp.array(12.0)):.2e}")
    1.51e-10
    """
    return 4 * sigmoid(2 * z) * sigmoid(-2 * z)


def relu_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where z > 0 and 0 elsewhere, at 0 too."""
    return jnp.where(z > 0, 1.0, 0.0).astype(z.dtype)


def leaky_relu_slope(z: Float[Array, "..."], negative_slope: float = 0.01) -> Float[Array, "..."]:
    """1 where z >= 0 and `negative_slope` elsewhere."""
    return jnp.where(z >= 0, 1.0, negative_slope).astype(z.dtype)


def elu_slope(z: Float[Array, "..."], alpha: float = 1.0) -> Float[Array, "..."]:
    """1 where z > 0 and `alpha e^z` elsewhere."""
    return jnp.where(z > 0, 1.0, alpha * jnp.exp(jnp.minimum(z, 0.0)))


def selu_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of an ELU of alpha = 1.6733, times 1.0507 (Klambauer et al. 2017, eq. 2)."""
    return 1.0507009873554805 * elu_slope(z, 1.6732632423543772)


def gelu_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of `z (1 + tanh u) / 2` with `u = sqrt(2 / pi) (z + 0.044715 z^3)`."""
    scale = math.sqrt(2 / math.pi)
    u = scale * (z + 0.044715 * z**3)
    return (1 + jnp.tanh(u)) / 2 + z / 2 * tanh_slope(u) * scale * (1 + 3 * 0.044715 * z**2)


def silu_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of `z s(z)`: `s(z) + z s'(z)`."""
    return sigmoid(z) + z * sigmoid_slope(z)


def softsign_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 / (1 + |z|)^2`, which falls off with z squared only."""
    return 1 / (1 + jnp.abs(z)) ** 2


def hard_tanh_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where |z| <= 1 and 0 elsewhere."""
    return jnp.where(jnp.abs(z) <= 1, 1.0, 0.0).astype(z.dtype)


def hard_sigmoid_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """1/6 where |z| < 3 and 0 elsewhere."""
    return jnp.where(jnp.abs(z) < 3, 1 / 6, 0.0).astype(z.dtype)


def mish_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of `z tanh(p)` with `p = log(1 + e^z)`, whose own derivative is s(z)."""
    return jnp.tanh(softplus(z)) + z * tanh_slope(softplus(z)) * sigmoid(z)


def erf_slope(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """`2 / sqrt(pi) exp(-z^2)`."""
    return 2 / math.sqrt(math.pi) * jnp.exp(-(z**2))


SLOPES: dict[str, Elementwise] = {  # by the names of `layers.ACTIVATIONS`; prelu's is learnt
    "identity": jnp.ones_like,
    "sigmoid": sigmoid_slope,
    "tanh": tanh_slope,
    "relu": relu_slope,
    "leaky_relu": leaky_relu_slope,
    "elu": elu_slope,
    "selu": selu_slope,
    "gelu": gelu_slope,
    "silu": silu_slope,
    "swish": silu_slope,
    "softplus": sigmoid,
    "softsign": softsign_slope,
    "hard_tanh": hard_tanh_slope,
    "hard_sigmoid": hard_sigmoid_slope,
    "mish": mish_slope,
    "sine": jnp.cos,
    "erf": erf_slope,
}


@_arguments.checked
def slope_of(activation: str) -> Elementwise:
    """The derivative of an activation, by its name.

    Raises:
      ValueError: the name is not on offer.
    """
    _arguments.one_of("activation", activation, SLOPES)
    return SLOPES[activation]
