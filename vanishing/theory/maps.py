"""The maps of a layer of dense weights and a nonlinearity: fixed points and depth scales."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers import facts_of
from vanishing.layers.activations import Nonlinearity
from vanishing.theory.roots import crossings

_LOG_Q = np.linspace(np.log(1e-12), np.log(1e8), 401)  # where fixed points are looked for
_LEAST, _MOST = 1e-9, 1e6  # variances in place of 0 and infinity, where the maps have no slope
_NEWTON_STEPS = 5  # from a bracket of 12 %: the error is squared at each


def _require_scales(**scales: Scalar) -> None:
    """Refuse values that cannot be a standard deviation; traced numbers are not checked.

    Raises:
      ValueError: an array (`jax.vmap` runs over those), a negative number, or nan.
    """
    for name, scale in scales.items():
        if jnp.ndim(scale):
            raise ValueError(
                f"{name} has shape {jnp.shape(scale)}; it must be a scalar: use jax.vmap for many."
            )
        if not isinstance(scale, Tracer) and not float(scale) >= 0:
            raise ValueError(f"{name} is {scale}; a standard deviation must be at least 0.")


@_arguments.checked
@functools.partial(jax.jit, static_argnames="activation")
def variance_map(
    activation: Nonlinearity, *, q: Scalar, sigma_w: Scalar, sigma_b: Scalar
) -> Float[Array, ""]:
    """V(q) = sigma_w^2 E[f(sqrt(q) z)^2] + sigma_b^2, the pre-activations' variance a layer on.

    Reference: Poole et al., NeurIPS 2016, eq. 3.

    >>> print(f"{variance_map('relu', q=3.0, sigma_w=2.0**0.5, sigma_b=0.0):.4f}")
    3.0000
    """
    return sigma_w**2 * facts_of(activation).moments(q, 0.0).square + sigma_b**2


@functools.partial(jax.jit, static_argnames="activation")
def variance_slope(
    activation: Nonlinearity, *, q: Scalar, sigma_w: Scalar, sigma_b: Scalar
) -> Float[Array, ""]:
    """V'(q), the slope of the variance map.

    >>> print(f"{variance_slope('relu', q=3.0, sigma_w=2.0**0.5, sigma_b=0.0):.4f}")
    1.0000
    """
    return jax.grad(lambda q: variance_map(activation, q=q, sigma_w=sigma_w, sigma_b=sigma_b))(q)


@_arguments.checked
@functools.partial(jax.jit, static_argnames="activation")
def covariance_map(
    activation: Nonlinearity, *, q: Scalar, correlation: Scalar, sigma_w: Scalar, sigma_b: Scalar
) -> Float[Array, ""]:
    """The pre-activations' covariance a layer on, for two inputs of variance q.

    Reference: Poole et al., NeurIPS 2016, eq. 5.
    """
    m = facts_of(activation).moments(q, q * (1 - correlation))
    return sigma_w**2 * (m.square - m.difference) + sigma_b**2


@_arguments.checked
def chi(
    activation: Nonlinearity, *, q: Scalar, sigma_w: Scalar, correlation: Scalar = 1.0
) -> Float[Array, ""]:
    """sigma_w^2 E[f'(u) f'(v)]: the slope of the correlation map, at 1 the gradient's factor.

    At correlation 1 it is chi_1, by which a layer multiplies the mean-square gradient; under 1 the
    network is ordered and gradients vanish, over 1 it is chaotic and they explode.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      q: variance of the pre-activations.
      sigma_w: weights have the variance sigma_w^2 / fan_in.
      correlation: of the pre-activations of two inputs.

    Reference: Schoenholz et al., ICLR 2017, eq. 5 and 14.

    >>> print(f"{chi('relu', q=1.0, sigma_w=2.0**0.5):.4f}")
    1.0000
    """
    equal = isinstance(correlation, float) and correlation == 1
    return _chi(activation, q, sigma_w, None if equal else correlation)


@functools.partial(jax.jit, static_argnames="activation")
def _chi(activation, q, sigma_w, correlation):
    difference = 0.0 if correlation is None else q * (1 - correlation)
    return sigma_w**2 * facts_of(activation).moments(q, difference).slope_product


class FixedPoint(NamedTuple):
    """A variance that a layer leaves as it is."""

    q: float
    slope: float  # V'(q): under 1 the fixed point attracts
    chi_1: float

    @property
    def stable(self) -> bool:
        """Whether variances near it come to it."""
        return abs(self.slope) < 1


@_arguments.checked
def fixed_points(
    activation: Nonlinearity, *, sigma_w: float, sigma_b: float
) -> tuple[FixedPoint, ...]:
    """All variances of the pre-activations from 0 to 1e8 that a layer leaves as they are.

    Returns:
      In ascending order; empty where the variance grows for ever. A network whose variance map is
      the identity, such as critical ReLU, keeps every q: it returns q = 1 alone.

    >>> for point in fixed_points("tanh", sigma_w=1.3, sigma_b=0.0):
    ...     print(f"{point.q:.4f} {point.stable}")
    0.0000 False
    0.4090 True
    """
    _require_scales(sigma_w=sigma_w, sigma_b=sigma_b)
    excess = functools.partial(_excess, activation, sigma_w=sigma_w, sigma_b=sigma_b)
    with jax.enable_x64(True):

        def point(q: float) -> FixedPoint:
            near = max(q, 1e-14)  # at 0 itself quadrature has no slope
            slope = variance_slope(activation, q=near, sigma_w=sigma_w, sigma_b=sigma_b)
            return FixedPoint(q, float(slope), float(chi(activation, q=near, sigma_w=sigma_w)))

        grid = np.exp(_LOG_Q)
        excesses = np.asarray(jax.vmap(excess)(jnp.asarray(grid)))
        if np.max(np.abs(excesses) / grid) < 1e-9:
            return (point(1.0),)
        roots = [0.0] if sigma_b == 0 and excess(0.0) == 0 else []
        excesses = np.where(np.abs(excesses) < 1e-11 * grid, 0.0, excesses)  # rounding
        roots += crossings(lambda q: float(excess(q)), grid, excesses)
        return tuple(point(q) for q in roots)


@functools.partial(jax.jit, static_argnames="activation")
def _excess(activation, q, sigma_w, sigma_b):
    return variance_map(activation, q=q, sigma_w=sigma_w, sigma_b=sigma_b) - q


@_arguments.checked
def fixed_point(activation: Nonlinearity, *, sigma_w: Scalar, sigma_b: Scalar) -> Float[Array, ""]:
    """q*: the variance of the pre-activations that a network comes to from a variance of 1.

    Runs under `jax.jit` and `jax.vmap`, and `jax.grad` differentiates it by the implicit function
    theorem. `fixed_points` finds all of them.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      sigma_w: weights have the variance sigma_w^2 / fan_in.
      sigma_b: standard deviation of the biases.

    Returns:
      q*; 0 where the signal dies out, inf where it grows past 1e8.

    >>> print(f"{fixed_point('tanh', sigma_w=1.3, sigma_b=0.3):.4f}")
    0.6070
    """
    _require_scales(sigma_w=sigma_w, sigma_b=sigma_b)
    return _fixed_point(activation, sigma_w, sigma_b)


@functools.partial(jax.jit, static_argnames="activation")
def _fixed_point(activation, sigma_w, sigma_b):
    moments = facts_of(activation).moments
    dtype = jax.dtypes.canonicalize_dtype(float)
    grid = jnp.concatenate([jnp.exp(jnp.asarray(_LOG_Q, dtype)), jnp.ones(1, dtype)]).sort()
    start = int(np.searchsorted(np.exp(_LOG_Q), 1.0))
    squares = jax.vmap(lambda q: moments(q, 0.0).square)(grid)
    excess = jax.lax.stop_gradient(sigma_w**2 * squares + sigma_b**2 - grid)

    # Upwards the first root from 1 on, downwards the last one before it.
    tolerance = 8 * jnp.finfo(dtype).eps * grid
    ends_rise = (jnp.arange(grid.size) > start) & (excess < 0)
    ends_fall = (jnp.arange(grid.size) < start) & (excess > 0)
    rises = excess[start] > 0
    first, last = jnp.argmax(ends_rise), grid.size - 1 - jnp.argmax(ends_fall[::-1])
    low = jnp.where(rises, grid[first - 1], grid[last])
    high = jnp.where(rises, grid[first], grid[jnp.minimum(last + 1, grid.size - 1)])
    has_root = jnp.where(rises, jnp.any(ends_rise), jnp.any(ends_fall))

    def value_and_slope(q):
        return jax.value_and_grad(
            lambda q: variance_map(activation, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
        )(q)

    level = jnp.abs(1 - value_and_slope(jnp.ones((), dtype))[1]) < 1e-4
    stays = level & (jnp.abs(excess[start]) <= tolerance[start])  # the map is the identity

    def newton(q, _):
        value, slope = value_and_slope(q)
        return jnp.clip(q + (value - q) / _away_from_0(1 - slope), low, high), None

    root, _ = jax.lax.scan(newton, (low * high) ** 0.5, length=_NEWTON_STEPS)
    root = jax.lax.stop_gradient(jnp.where(stays, 1.0, root))
    # one more step, which is the one that `jax.grad` sees: dq = dV / (1 - V')
    value, slope = value_and_slope(root)
    step = (value - root) / jax.lax.stop_gradient(_away_from_0(1 - slope))
    otherwise = jnp.where(rises, jnp.inf, 0.0)
    return jnp.where(stays, 1.0, jnp.where(has_root, root + step, otherwise)).astype(dtype)


@_arguments.checked(q=_arguments.POSITIVE)
@functools.partial(jax.jit, static_argnames="activation")
def correlation_fixed_point(
    activation: Nonlinearity, *, q: Scalar, sigma_w: Scalar
) -> Float[Array, ""]:
    """c*: the correlation that two inputs of variance q* come to.

    1 in the ordered phase; under 1 in the chaotic phase, where 1 repels.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      q: the fixed point q* of the variance.
      sigma_w: weights have the variance sigma_w^2 / fan_in.

    Reference: Poole et al., NeurIPS 2016, sec. 2.2; Schoenholz et al., ICLR 2017, eq. 6.

    >>> q = fixed_point("tanh", sigma_w=2.5, sigma_b=0.3)
    >>> print(f"{correlation_fixed_point('tanh', q=q, sigma_w=2.5):.4f}")
    0.1221
    """
    moments = facts_of(activation).moments
    q = jnp.asarray(q, float)

    def growth(decorrelation):  # of 1 - c, over a layer: above 1 below the fixed point
        difference = q * decorrelation
        return sigma_w**2 * moments(q, difference).difference / difference

    def halve(bounds, _):
        low, high = bounds
        middle = (low + high) / 2
        beyond = growth(jnp.exp(middle)) < 1
        return (jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)), None

    smallest = np.log(np.finfo(q.dtype).eps)
    bounds = (jnp.full_like(q, smallest), jnp.full_like(q, np.log(2.0)))
    (low, high), _ = jax.lax.scan(halve, bounds, length=60)
    start = jax.lax.stop_gradient(jnp.exp((low + high) / 2))
    # one Newton step, which is the one that `jax.grad` sees: d start = dF / (1 - F')
    value = sigma_w**2 * moments(q, q * start).difference / q
    slope = chi(activation, q=q, sigma_w=sigma_w, correlation=1 - start)
    decorrelation = start + (value - start) / jax.lax.stop_gradient(_away_from_0(1 - slope))
    return jnp.where(chi(activation, q=q, sigma_w=sigma_w) <= 1, 1.0, 1 - decorrelation)


class CorrelationFixedPoint(NamedTuple):
    """A correlation of two inputs that a layer leaves as it is."""

    correlation: float
    slope: float  # of the correlation map: under 1 the fixed point attracts

    @property
    def stable(self) -> bool:
        """Whether correlations near it come to it."""
        return abs(self.slope) < 1


@_arguments.checked(q=_arguments.POSITIVE)
def correlation_fixed_points(
    activation: Nonlinearity, *, q: float, sigma_w: float
) -> tuple[CorrelationFixedPoint, ...]:
    """The correlations that two inputs of variance q* keep: 1 always, and c* where 1 repels.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      q: a fixed point q* of the variance, over 0.
      sigma_w: weights have the variance sigma_w^2 / fan_in.

    >>> q = fixed_points("tanh", sigma_w=2.5, sigma_b=0.3)[0].q
    >>> for point in correlation_fixed_points("tanh", q=q, sigma_w=2.5):
    ...     print(f"{point.correlation:.3f} {point.slope:.3f} {point.stable}")
    0.122 0.822 True
    1.000 1.585 False
    """
    with jax.enable_x64(True):
        c = float(correlation_fixed_point(activation, q=float(q), sigma_w=sigma_w))
        points = [c, 1.0] if c < 1 - 1e-9 else [1.0]
        return tuple(
            CorrelationFixedPoint(
                c, float(chi(activation, q=float(q), sigma_w=sigma_w, correlation=c))
            )
            for c in points
        )


class DepthScales(NamedTuple):
    """How many layers it takes to change by the factor e; infinite where nothing changes.

    Deviations of the variance and of the correlation shrink, or grow where their scale is negative;
    the gradient vanishes where chi_1 is under 1 and explodes where it is over.
    """

    q: Float[Array, ""]  # of the variance, from q*
    correlation: Float[Array, ""]  # of the correlation of two inputs, from c*
    gradient: Float[Array, ""]  # of the mean-square gradient: 1 / |log chi_1|


@_arguments.checked
def depth_scales(activation: Nonlinearity, *, sigma_w: Scalar, sigma_b: Scalar) -> DepthScales:
    """The depth scales of a wide network of dense layers, in layers.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      sigma_w: weights have the variance sigma_w^2 / fan_in.
      sigma_b: standard deviation of the biases.

    Reference: Schoenholz et al., ICLR 2017, eq. 8, 9 and 15.

    >>> scale = lambda sigma_w: depth_scales("tanh", sigma_w=sigma_w, sigma_b=0.2).gradient
    >>> print(f"{scale(1.0):.2f} {jax.grad(scale)(1.0):.1f}")
    4.01 20.5
    """
    _require_scales(sigma_w=sigma_w, sigma_b=sigma_b)
    return _depth_scales(activation, sigma_w, sigma_b)


@functools.partial(jax.jit, static_argnames="activation")
def _depth_scales(activation, sigma_w, sigma_b) -> DepthScales:
    q = _fixed_point(activation, sigma_w, sigma_b)
    q = jnp.clip(q, _LEAST, _MOST)
    value, slope = jax.value_and_grad(
        lambda q: variance_map(activation, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    )(q)
    # where the variance dies or grows for ever, correlations follow what is left of the map
    relative_w = sigma_w * jnp.sqrt(q / value)
    c = correlation_fixed_point(activation, q=q, sigma_w=relative_w)
    return DepthScales(
        q=-1 / jnp.log(jnp.abs(slope)),
        correlation=-1 / jnp.log(chi(activation, q=q, sigma_w=relative_w, correlation=c)),
        gradient=1 / jnp.abs(jnp.log(chi(activation, q=q, sigma_w=sigma_w))),
    )


def _away_from_0(x: Array) -> Array:
    tiny = jnp.finfo(x.dtype).eps
    return jnp.where(jnp.abs(x) < tiny, tiny, x)
