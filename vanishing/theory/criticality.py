"""The critical line: initial scales at which the gradient neither vanishes nor explodes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers import facts_of
from vanishing.layers.activations import Nonlinearity
from vanishing.theory.maps import chi, variance_map, variance_slope
from vanishing.theory.roots import crossings

_LOG_Q = np.linspace(np.log(1e-5), np.log(1e6), 601)  # where crossings are looked for
_ROUNDING = 1e-11  # of quadrature, in the differences whose sign is looked at


class CriticalPoint(NamedTuple):
    """Scales of weights and biases at which chi_1 = 1 for pre-activations of variance q."""

    sigma_w: Float[Array, ""]
    sigma_b: Float[Array, ""]
    q: Float[Array, ""]


@_arguments.checked(q=_arguments.POSITIVE)
@functools.partial(jax.jit, static_argnames="activation")
def critical_line(activation: Nonlinearity, q: Scalar) -> CriticalPoint:
    """The point of the critical line whose pre-activations have the variance q.

    1 = sigma_w^2 E[f'(sqrt(q) z)^2] gives sigma_w, and q = V(q) then gives sigma_b. Runs under
    `jax.jit`, `jax.vmap` and `jax.grad`: a range of q draws the whole line.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      q: variance of the pre-activations, over 0.

    Returns:
      The point; its `sigma_b` is nan where no bias makes q a fixed point.

    Reference: Schoenholz et al., Deep information propagation, ICLR 2017, sec. 3.

    >>> point = critical_line("tanh", 1.0)
    >>> print(f"{point.sigma_w**2:.4f} {point.sigma_b**2:.4f}")
    2.1533 0.1510
    """
    moments = facts_of(activation).moments(q, 0.0)
    sigma_w2 = 1 / moments.slope_square
    sigma_b2 = q - sigma_w2 * moments.square
    rounding = 8 * jnp.finfo(moments.square.dtype).eps * q
    sigma_b2 = jnp.where(jnp.abs(sigma_b2) < rounding, 0.0, sigma_b2)
    positive = sigma_b2 > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, sigma_b2, 1.0)), 0.0)
    return CriticalPoint(
        jnp.sqrt(sigma_w2), jnp.where(sigma_b2 < 0, jnp.nan, root), jnp.asarray(q, root.dtype)
    )


class Critical(NamedTuple):
    """A critical initialisation: `initializers.scaled(sigma_w, sigma_b)`."""

    sigma_w: float
    sigma_b: float
    q: float  # variance of the pre-activations there; at 0 the signal itself dies out slowly
    slope: float  # V'(q)
    stable: bool  # whether variances near q stay near it


@_arguments.checked
def critical(activation: Nonlinearity, sigma_b: float = 0.0) -> tuple[Critical, ...]:
    """All initial weight scales at which the gradient keeps its size, for a scale of the biases.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      sigma_b: standard deviation of the biases; at least 0.

    Returns:
      The solutions with q from 0 to 1e6 in ascending order of q: usually one, sometimes several (a
      bounded activation can turn critical a second time). An activation that scales with its input,
      as ReLU does, is critical at every q: it returns q = 1 alone.

    Raises:
      ValueError: sigma_b is negative, or there is no solution.

    Reference: Schoenholz et al., ICLR 2017, sec. 3; Hayou et al., On the impact of the activation
    function on deep neural networks training, ICML 2019, for ReLU.

    >>> for point in critical("relu") + critical("tanh", 0.3) + critical("sigmoid"):
    ...     print(f"{point.sigma_w:.4f} {point.q:.2f}")
    1.4142 1.00
    1.3956 0.76
    10.1493 45.62
    """
    _arguments.at_least("sigma_b", sigma_b, 0)
    fraction = functools.partial(bias_fraction, activation)
    with jax.enable_x64(True):

        def solution(q: float) -> Critical:
            near = max(q, 1e-14)  # at 0 itself quadrature has no slope
            sigma_w = float(chi(activation, q=near, sigma_w=1.0)) ** -0.5
            steepness = abs(
                float(variance_slope(activation, q=near, sigma_w=sigma_w, sigma_b=sigma_b))
            )
            above = 1e-4 + 1.001 * q
            grows = float(
                variance_map(activation, q=above, sigma_w=sigma_w, sigma_b=sigma_b)
            ) > above * (1 + 1e-12)
            # where the slope is 1 itself, what comes next decides
            stable = steepness < 1 - 1e-6 or (steepness < 1 + 1e-6 and not grows)
            return Critical(sigma_w, sigma_b, q, steepness, stable)

        grid = np.exp(_LOG_Q)
        fractions = np.asarray(jax.vmap(fraction)(jnp.asarray(grid)))
        if np.max(np.abs(fractions)) < 1e-9:
            solutions = (solution(1.0),) if sigma_b == 0 else ()
        else:
            gaps = fractions - sigma_b**2 / grid
            gaps = np.where(np.abs(gaps) < _ROUNDING, 0.0, gaps)
            roots = (
                [0.0]
                if sigma_b == 0 and variance_map(activation, q=0.0, sigma_w=1.0, sigma_b=0.0) == 0
                else []
            )
            roots += crossings(lambda q: float(fraction(q)) - sigma_b**2 / q, grid, gaps)
            solutions = tuple(solution(q) for q in roots)
    if not solutions:
        biases = np.sqrt(np.maximum(fractions * grid, 0.0))
        advice = (
            f"there is one at sigma_b from {np.min(biases[biases > 0]):.2g} to {biases.max():.2g}"
            if np.max(fractions) > 1e-9
            else "without biases there is one"
            if np.max(np.abs(fractions)) < 1e-9
            else "there is none at any sigma_b"
        )
        raise ValueError(
            f"{_name(activation)} has no critical sigma_w at sigma_b = {sigma_b:g}: no variance of "
            f"the pre-activations is kept together with the gradient; {advice}."
        )
    return solutions


@functools.partial(jax.jit, static_argnames="activation")
def bias_fraction(activation: Nonlinearity, q: Scalar) -> Float[Array, ""]:
    """sigma_b^2 / q at which q is a fixed point, where sigma_w is the critical one of q.

    Critical points for a given sigma_b are where it crosses sigma_b^2 / q.

    >>> print(f"{bias_fraction('tanh', 1.0):.4f}")
    0.1510
    """
    moments = facts_of(activation).moments(q, 0.0)
    return 1 - moments.square / (moments.slope_square * q)


def _name(activation: Nonlinearity) -> str:
    return activation if isinstance(activation, str) else "the activation"
