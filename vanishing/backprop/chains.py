"""The textbook's chain of one neuron a layer: its gradient is a product, factor by factor.

With a_0 = x, `z_l = w_l a_(l-1) + b_l` and `a_l = f(z_l)`,

    da_L/dx   = product over l of  w_l f'(z_l)
    da_L/db_l = f'(z_l)  times  product over k > l of  w_k f'(z_k)

For the sigmoid f' is at most 1/4, so that a factor reaches 1 only where |w| is at least 4, and then
only in a narrow window of activations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.backprop.slopes import sigmoid_slope, slope_of
from vanishing.layers import ACTIVATIONS

Depth = Float[Array, " depth"]


class Chain(NamedTuple):
    """A chain of neurons at one input, from the first layer to the last."""

    pre_activations: Depth  # z_l
    activations: Depth  # a_l
    factors: Depth  # w_l f'(z_l), with their signs
    gradient: Float[Array, ""]  # da_L/dx, their product
    bias_gradients: Depth  # da_L/db_l
    log_gradients: Depth  # log |da_L/db_l|, also where the product of its factors underflows


@_arguments.checked
def chain(activation: str, weights: Depth, biases: Depth, x: Scalar) -> Chain:
    """The forward pass of a chain and its gradient, factor by factor.

    `theory.chain_factors` gives the sizes of the factors for any nonlinearity, from its derivative
    as JAX finds it.

    Args:
      activation: f, a name of `SLOPES`.
      weights: w, one a layer.
      biases: b, one a layer, as many.
      x: the input, which the first layer multiplies by w_1 as it is.

    Raises:
      ValueError: the activation is unknown, or there are not as many biases as weights.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 5, eq. 122.

    >>> neurons = chain("sigmoid", jnp.ones(4), jnp.zeros(4), 0.0)
    >>> print(" ".join(f"{factor:.3f}" for factor in neurons.factors))
    0.250 0.235 0.227 0.225
    >>> print(" ".join(f"{gradient:.4f}" for gradient in neurons.bias_gradients))
    0.0030 0.0120 0.0512 0.2253
    """
    _arguments.shape("biases", biases, weights.shape)
    slope = slope_of(activation)
    f = ACTIVATIONS[activation].function

    def step(a, layer):
        w, b = layer
        z = w * a + b
        return f(z), (z, f(z))

    _, (z, a) = jax.lax.scan(step, jnp.asarray(x, weights.dtype), (weights, biases))
    slopes = slope(z)
    factors = weights * slopes
    after = _after(jnp.cumprod, factors, 1.0)
    log_after = _after(jnp.cumsum, jnp.log(jnp.abs(factors)), 0.0)
    return Chain(
        pre_activations=z,
        activations=a,
        factors=factors,
        gradient=jnp.prod(factors),
        bias_gradients=slopes * after,
        log_gradients=jnp.log(jnp.abs(slopes)) + log_after,
    )


def _after(cumulated, values: Depth, empty: float) -> Depth:
    """The cumulation of the values after each one; `empty` after the last."""
    return jnp.append(cumulated(values[:0:-1])[::-1], jnp.asarray(empty, values.dtype))


class Window(NamedTuple):
    """The interval of activations a with |w s'(w a + b)| >= 1.

    Where |w| is under 4 there is none: the width is 0, and both ends are where the factor is
    largest.
    """

    low: Float[Array, "..."]
    high: Float[Array, "..."]

    @property
    def width(self) -> Float[Array, "..."]:
        """Length of the interval."""
        return self.high - self.low


@_arguments.checked
def window(weight: Float[Array, "..."], bias: Scalar = 0.0) -> Window:
    """Where a sigmoid's factor reaches 1, in closed form.

    s'(u) = 1 / (2 (1 + cosh u)), so that |w| s'(u) >= 1 where `cosh u <= |w| / 2 - 1`: in a window
    of width `(2 / |w|) arccosh(|w| / 2 - 1)` around a = -b / w, and nowhere for |w| < 4. It is the
    textbook's `(2 / |w|) ln(|w| (1 + sqrt(1 - 4 / |w|)) / 2 - 1)`, there a bound, since what a
    sigmoid puts out lies between 0 and 1.

    Args:
      weight: w, of any shape; not 0, where the window is nan.
      bias: b.

    Returns:
      The window's ends, of the shape of the weights.

    Reference: Nielsen 2015, chapter 5, eq. 123.

    >>> print(window(jnp.array([3.0, 5.0, 10.0])).width.round(4))
    [0.     0.385  0.4127]
    """
    half = jnp.arccosh(jnp.maximum(jnp.abs(weight) / 2 - 1, 1.0)) / jnp.abs(weight)
    return Window(low=-bias / weight - half, high=-bias / weight + half)


@_arguments.checked
def window_by_bisection(weight: Float[Array, "..."], bias: Scalar = 0.0) -> Window:
    """The same window by bisection, which reads the sigmoid's slope and needs no inverse.

    Exact to rounding, but close to |w| = 4, where the slope is flat at its largest: there to about
    the square root of it.

    Args:
      weight: w, of any shape; not 0, where the window is nan.
      bias: b.

    Returns:
      The window's ends, of the shape of the weights.

    >>> print(window_by_bisection(jnp.array([3.0, 5.0, 10.0])).width.round(4))
    [0.     0.385  0.4127]
    """
    peak = -bias / weight

    def edge(direction: float) -> Float[Array, "..."]:
        def halve(_, bracket):
            inside, outside = bracket
            middle = (inside + outside) / 2
            reaches = jnp.abs(weight * sigmoid_slope(weight * middle + bias)) >= 1
            return jnp.where(reaches, middle, inside), jnp.where(reaches, outside, middle)

        far = peak + direction * 100 / jnp.abs(weight)  # there s' is e^-100
        inside, _ = jax.lax.fori_loop(0, 100, halve, (peak, far))
        return inside

    return Window(low=edge(-1.0), high=edge(1.0))


class Widest(NamedTuple):
    """The widest window that any weight has."""

    weight: Float[Array, ""]
    width: Float[Array, ""]


def widest_window() -> Widest:
    """The |w| at which a sigmoid's factor reaches 1 over the longest interval, and its length.

    The width u / (1 + cosh u) is largest where `u tanh(u / 2) = 1`, at |w| = 2 (1 + cosh u).

    Reference: Nielsen 2015, chapter 5, the problem with eq. 123: about 0.45, at |w| about 6.9.

    >>> print(f"{widest_window().width:.4f} at {widest_window().weight:.3f}")
    0.4477 at 6.894
    """

    def newton(_, u):
        return u - (u * jnp.tanh(u / 2) - 1) / (jnp.tanh(u / 2) + u / 2 / jnp.cosh(u / 2) ** 2)

    u = jax.lax.fori_loop(0, 10, newton, jnp.asarray(1.5))
    return Widest(weight=2 * (1 + jnp.cosh(u)), width=u / (1 + jnp.cosh(u)))
