"""The chain of introductory texts, one neuron a layer, and how much slower each layer learns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers import facts_of
from vanishing.layers.activations import Nonlinearity
from vanishing.theory.maps import chi, fixed_point


@_arguments.checked
def chain_factors(
    activation: Nonlinearity,
    weights: Float[Array, " depth"],
    biases: Float[Array, " depth"],
    x: Scalar,
) -> Float[Array, " depth"]:
    """|w_l f'(z_l)| for every layer of a chain of single neurons, z_l = w_l f(z_(l-1)) + b_l.

    The derivative of the chain's output with respect to its input x is, but for its sign, their
    product. For the sigmoid each is at most |w_l| / 4.

    Args:
      activation: f, a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      weights: w, one a layer.
      biases: b, one a layer.
      x: the input, which the first layer multiplies by w_1 as it is.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 5.

    >>> factors = chain_factors("sigmoid", jnp.ones(3), jnp.zeros(3), 0.0)
    >>> print(" ".join(f"{factor:.3f}" for factor in factors))
    0.250 0.235 0.227
    """
    function = facts_of(activation).function

    def step(a, layer):
        w, b = layer
        z = w * a + b
        a, slope = jax.jvp(function, (z,), (jnp.ones_like(z),))
        return a, jnp.abs(w * slope)

    _, factors = jax.lax.scan(step, jnp.asarray(x, weights.dtype), (weights, biases))
    return factors


@_arguments.checked
def learning_speed_ratio(
    activation: Nonlinearity, sigma_w: Scalar, sigma_b: Scalar
) -> Float[Array, ""]:
    """How many times faster a layer of a wide network learns than the one before it.

    1 / sqrt(chi_1): the ratio of the gradient norms with respect to the biases of two neighbours,
    where the pre-activations have come to their fixed point.

    Reference: Nielsen 2015, chapter 5, measures the ratio, at about 4.9 for sigma_w = sigma_b = 1.

    >>> print(f"{learning_speed_ratio('sigmoid', 1.0, 1.0):.2f}")
    4.88
    """
    return 1 / jnp.sqrt(
        chi(
            activation, q=fixed_point(activation, sigma_w=sigma_w, sigma_b=sigma_b), sigma_w=sigma_w
        )
    )
