"""Gaussian moments of an activation: all that mean-field theory needs of a nonlinearity."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.meanfield.quadrature import nodes, pair_nodes


class Moments(NamedTuple):
    """Gaussian means of f(u), f(v) and the slopes f'(u), f'(v).

    u and v are pre-activations of one unit for two inputs, normal with mean 0, variance q and
    covariance q - difference.
    """

    mean: Float[Array, ""]  # E[f(u)]
    square: Float[Array, ""]  # E[f(u)^2]
    difference: Float[Array, ""]  # E[(f(u) - f(v))^2] / 2
    slope_square: Float[Array, ""]  # E[f'(u)^2]
    slope_product: Float[Array, ""]  # E[f'(u) f'(v)]
    weighted_square: Float[Array, ""]  # E[f'(u)^2 u^2]
    weighted_product: Float[Array, ""]  # E[f'(u) f'(v) u v]
    slope_fourth: Float[Array, ""]  # E[f'(u)^4]


_FAR = 1e6  # standard deviations: where the normal density is 0
_NEAR = 1e-6  # of the standard deviation: as good as 0

GetMoments = Callable[[Scalar, Scalar], Moments]  # of (q, difference)


def angle_of(q: Scalar, difference: Scalar) -> Float[Array, ""]:
    """Angle between two inputs in radians: arc cosine of their correlation, precise near 0.

    With correlation c = 1 - difference / q it is 2 asin(sqrt((1 - c) / 2)).
    """
    fraction = jnp.clip(_ratio(difference, 2 * q), 0.0, 1.0)
    inside = fraction > 0  # where the slope of the square root is infinite, the angle has none
    none = jnp.where(jnp.isnan(q) | jnp.isnan(difference), jnp.nan, 0.0)
    return jnp.where(inside, 2 * jnp.arcsin(jnp.sqrt(jnp.where(inside, fraction, 1.0))), none)


@_arguments.checked
def by_quadrature(function: Callable, kinks: Sequence[float] = ()) -> GetMoments:
    """The moments of any elementwise function.

    Args:
      function: elementwise and differentiable but for its kinks.
      kinks: where it or its slope jumps; 0 is always taken care of.
    """
    breaks = sorted({0.0, *kinks})

    def moments(q: Scalar, difference: Scalar) -> Moments:
        q = jnp.asarray(q, jax.dtypes.canonicalize_dtype(float))
        sigma = _root(q)
        bends = [jnp.sign(b) * _ratio(abs(b), sigma, _FAR) if b else 0.0 for b in breaks]
        line = nodes(bends)
        # at q = 0 a kink's slope is the mean of its two sides, as it is in the limit
        near = jnp.where(q == 0, _NEAR, sigma)
        f, slope = _value_and_slope(function, near * line.z)
        f = jnp.where(q == 0, function(jnp.zeros_like(f)), f)
        u = sigma * line.z
        alone = Moments(
            mean=jnp.sum(line.weight * f),
            square=jnp.sum(line.weight * f**2),
            difference=jnp.zeros_like(q),
            slope_square=jnp.sum(line.weight * slope**2),
            slope_product=jnp.sum(line.weight * slope**2),
            weighted_square=jnp.sum(line.weight * (slope * u) ** 2),
            weighted_product=jnp.sum(line.weight * (slope * u) ** 2),
            slope_fourth=jnp.sum(line.weight * slope**4),
        )
        if isinstance(difference, float) and difference == 0:
            return alone  # v is u, so that no integral over the plane is needed
        off_center = [bend for b, bend in zip(breaks, bends, strict=True) if b]
        pair = pair_nodes(angle_of(q, difference), off_center)
        f_u, slope_u = _value_and_slope(function, sigma * pair.u)
        f_v, slope_v = _value_and_slope(function, sigma * pair.v)
        slope_product = jnp.sum(pair.weight * slope_u * slope_v)
        # d E[f f'] / d cov = E[slope slope'] (Price 1958): which the nodes miss at angle 0
        still = jax.lax.stop_gradient(jnp.asarray(difference))
        slope_at_0 = jnp.where(still == 0, jax.lax.stop_gradient(slope_product), 0.0)
        price = slope_at_0 * (difference - still)
        return alone._replace(
            difference=jnp.sum(pair.weight * (f_u - f_v) ** 2) / 2 + price,
            slope_product=slope_product,
            weighted_product=q * jnp.sum(pair.weight * slope_u * slope_v * pair.u * pair.v),
        )

    return moments


class Leaky(NamedTuple):
    """Closed form for x where x > 0 and slope * x elsewhere: ReLU at 0, the identity at 1.

    It scales with its input, so that all its moments are proportional to q.

    Reference: Cho & Saul, Kernel methods for deep learning, NeurIPS 2009, eq. 6 (ReLU).
    """

    slope: Scalar

    def __call__(self, q: Scalar, difference: Scalar) -> Moments:
        """The moments; see `Moments`."""
        even, odd = (1 - self.slope) / 2, (1 + self.slope) / 2  # f(x) = odd x + even |x|
        q, difference = jnp.asarray(q), jnp.asarray(difference)
        angle = angle_of(q, difference)
        # q - E|u||v| = q (1 - cos a) - (2 q / pi) (sin a - a cos a)
        of_modulus = difference - 2 * q / jnp.pi * _sine_minus_chord(angle)
        square = q * (odd**2 + even**2)
        half_gap = odd**2 * difference + even**2 * of_modulus
        return Moments(
            mean=2 * even * _root(q / (2 * jnp.pi)),
            square=square,
            difference=half_gap,
            slope_square=odd**2 + even**2 + 0 * angle,
            slope_product=odd**2 + even**2 * (1 - 2 * angle / jnp.pi),
            weighted_square=square,  # x f'(x) = f(x)
            weighted_product=square - half_gap,
            slope_fourth=(1 + self.slope**4) / 2 + 0 * angle,
        )


def erf(q: Scalar, difference: Scalar) -> Moments:
    """Closed form for the error function.

    Reference: Williams, Computing with infinite networks, NeurIPS 1997, eq. 11.
    """
    q, difference = jnp.asarray(q), jnp.asarray(difference)
    covariance = q - difference
    x, y = 2 * q / (1 + 2 * q), 2 * covariance / (1 + 2 * q)
    cos_x = jnp.sqrt(1 + 4 * q) / (1 + 2 * q)
    determinant = (1 + 2 * difference) * (1 + 4 * q - 2 * difference)
    cos_y = jnp.sqrt(determinant) / (1 + 2 * q)
    # sin(asin x - asin y), without the cancellation where y is near x
    gap = 2 * difference / (1 + 2 * q)
    near = gap * (x + y) / jnp.where(y > 0, x * cos_y + y * cos_x, 1.0)
    sine = jnp.where(y > 0, near, x * cos_y - y * cos_x)
    return Moments(
        mean=jnp.zeros_like(q),
        square=2 / jnp.pi * jnp.arcsin(x),
        difference=2 / jnp.pi * jnp.arctan2(sine, cos_x * cos_y + x * y),
        slope_square=4 / jnp.pi / jnp.sqrt(1 + 4 * q),
        slope_product=4 / jnp.pi / jnp.sqrt(determinant),
        weighted_square=4 / jnp.pi * q / (1 + 4 * q) ** 1.5,
        weighted_product=4 / jnp.pi * covariance / determinant**1.5,
        slope_fourth=(4 / jnp.pi) ** 2 / jnp.sqrt(1 + 8 * q),
    )


def sine(q: Scalar, difference: Scalar) -> Moments:
    """Closed form for the sine, from the characteristic function of a normal variable."""
    q, difference = jnp.asarray(q), jnp.asarray(difference)
    of_difference, of_sum = jnp.exp(-difference), jnp.exp(difference - 2 * q)
    var_difference, var_sum = 2 * difference, 4 * q - 2 * difference
    spread = var_sum - var_difference  # 4 cov(u, v)
    return Moments(
        mean=jnp.zeros_like(q),
        square=-jnp.expm1(-2 * q) / 2,
        difference=-jnp.expm1(-difference) * (1 + of_sum) / 2,
        slope_square=(1 + jnp.exp(-2 * q)) / 2,
        slope_product=(of_difference + of_sum) / 2,
        weighted_square=q / 2 + (q - 4 * q**2) * jnp.exp(-2 * q) / 2,
        weighted_product=(
            (spread + var_difference**2) * of_difference + (spread - var_sum**2) * of_sum
        )
        / 8,
        slope_fourth=3 / 8 + jnp.exp(-2 * q) / 2 + jnp.exp(-8 * q) / 8,
    )


def _value_and_slope(function: Callable, x: Array) -> tuple[Array, Array]:
    return jax.jvp(function, (x,), (jnp.ones_like(x),))


def _root(x: Scalar) -> Float[Array, ""]:
    """The square root, whose gradient at 0 is 0 instead of infinite; nan of a negative number."""
    positive = jnp.asarray(x) > 0
    root = jnp.sqrt(jnp.where(positive, x, 1.0))
    return jnp.where(positive, root, jnp.where(x == 0, 0.0, jnp.nan))


def _ratio(x: Scalar, y: Scalar, otherwise: Scalar = 0.0) -> Float[Array, ""]:
    """x / y, and `otherwise` where y is 0."""
    positive = jnp.asarray(y) > 0
    return jnp.where(positive, x / jnp.where(positive, y, 1.0), otherwise)


def _sine_minus_chord(a: Float[Array, ""]) -> Float[Array, ""]:
    """sin a - a cos a, by its series where the two cancel."""
    series = a**3 / 3 - a**5 / 30 + a**7 / 840 - a**9 / 45360
    return jnp.where(a < 0.3, series, jnp.sin(a) - a * jnp.cos(a))
