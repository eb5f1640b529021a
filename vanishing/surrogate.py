"""Backpropagation through a step: one function forward, the slope of another backward.

A step has no slope where it does not jump, so that no gradient passes it: vanishing in one layer. A
surrogate gradient puts another function's slope in its place, on the way back only.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Elementwise
from vanishing.backprop import slope_of
from vanishing.layers.activations import Activation


@_arguments.checked
def step(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where x > 0 and 0 elsewhere, nan where x is; its derivative is 0.

    >>> print(step(jnp.array([-2.0, 0.0, 0.5])))
    [0. 0. 1.]
    """
    return jnp.heaviside(x, 0.0).astype(x.dtype)


@_arguments.checked
def sign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 where x > 0 and -1 elsewhere, at 0 too, so that it has two values; its derivative is 0."""
    return 2 * step(x) - 1


@_arguments.checked
def triangle(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`max(0, 1 - |x|)`: a slope of 1 at the jump that falls to 0 on either side of it.

    Reference: Bellec et al., Long short-term memory and learning-to-learn in networks of spiking
    neurons, NeurIPS 2018, sec. 2, who damp it by a further factor.
    """
    return jnp.maximum(0.0, 1 - jnp.abs(x))


@_arguments.checked
def with_slope(function: Elementwise, slope: Elementwise) -> Elementwise:
    """The function, with another derivative than its own.

    Forward and backward mode, `vmap`, `jit` and the probe all see the slope; a second derivative is
    the slope's own.

    Args:
      function: elementwise; what is computed.
      slope: elementwise; what a tangent or cotangent is multiplied by.

    Raises:
      ValueError: one of them is not a function.

    Reference: Neftci, Mostafa & Zenke, Surrogate gradient learning in spiking neural networks, IEEE
    Signal Processing Magazine 2019.

    >>> soft = with_slope(step, triangle)
    >>> print(soft(0.25), jax.grad(soft)(0.25))
    1.0 0.75
    """

    for name, argument in (("function", function), ("slope", slope)):
        if not callable(argument):
            raise ValueError(f"{name} is {argument!r}; it must be a function, such as `triangle`.")

    @jax.custom_jvp
    def replaced(x):
        return function(x)

    @replaced.defjvp
    def _jvp(primals, tangents):
        (x,), (tangent,) = primals, tangents
        return replaced(x), slope(x) * tangent

    return lambda x: replaced(jnp.asarray(x))


@_arguments.checked
def straight_through(function: Elementwise) -> Elementwise:
    """The function, with the derivative of the identity: a cotangent passes as it is.

    Reference: Bengio, Leonard & Courville, Estimating or propagating gradients through stochastic
    neurons for conditional computation, 2013, sec. 4.

    >>> print(jax.grad(lambda x: 3 * straight_through(jnp.round)(x))(0.2))
    3.0
    """
    return with_slope(function, jnp.ones_like)


class Surrogate(NamedTuple):
    """A slope in place of a step's own: mostly that of a function that rises by 1 too."""

    slope: Elementwise
    peak: float  # the largest slope
    reach: float  # beyond this |x| the slope stays under 1 % of it
    kinks: tuple[float, ...] = ()  # where the slope jumps or turns, other than at 0


STEPS: dict[str, tuple[Elementwise, float]] = {"step": (step, 1.0), "sign": (sign, 2.0)}  # and rise
SURROGATES = {
    "none": Surrogate(jnp.zeros_like, 0.0, 0.0),
    "straight_through": Surrogate(jnp.ones_like, 1.0, math.inf),
    "hard_sigmoid": Surrogate(slope_of("hard_sigmoid"), 1 / 6, 3.0, (-3.0, 3.0)),
    "sigmoid": Surrogate(slope_of("sigmoid"), 1 / 4, 5.9864),
    "triangular": Surrogate(triangle, 1.0, 1.0, (-1.0, 1.0)),
}


@_arguments.checked
def activation(function: str, surrogate: str, sharpness: float = 1.0) -> Activation:
    """A step activation whose gradient is a surrogate's.

    The surrogate's function is made to rise as far as the step does: the slope is
    `rise sharpness s(sharpness x)` with a rise of 1 for "step" and 2 for "sign". That of
    "straight_through" is 1 in any case, and that of "none" 0, which is the step's own.

    Args:
      function: "step" or "sign".
      surrogate: a name of `SURROGATES`.
      sharpness: how much steeper and narrower the surrogate is; over 0. 3 makes "hard_sigmoid" on
        "sign" the clipped estimator of binary networks, a slope of 1 for |x| < 1 (Hubara et al.,
        Binarized neural networks, NeurIPS 2016, eq. 4).

    Returns:
      What `layers.activation` and `networks.mlp` take; theory follows it.

    Raises:
      ValueError: a name is not on offer, or `sharpness` is not over 0 and finite.

    >>> print(jax.grad(activation("sign", "sigmoid").function)(0.0))
    0.5
    """
    _arguments.one_of("function", function, STEPS)
    _arguments.one_of("surrogate", surrogate, SURROGATES)
    _arguments.positive("sharpness", sharpness)
    jump, rise = STEPS[function]
    if surrogate == "straight_through":
        rise = sharpness = 1.0
    shape = SURROGATES[surrogate]
    reach = shape.reach / sharpness
    return Activation(
        function=with_slope(jump, lambda x: rise * sharpness * shape.slope(sharpness * x)),
        largest_slope=rise * sharpness * shape.peak,
        saturation=(-reach, reach),
        initializer="lecun_normal",
        source=f"{function} with the slope of {surrogate}",
        kinks=tuple(kink / sharpness for kink in shape.kinks),
    )
