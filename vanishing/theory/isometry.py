"""Dynamical isometry: the singular values of a deep network's input-output Jacobian."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers import Activation, facts_of
from vanishing.layers.activations import Nonlinearity
from vanishing.meanfield.quadrature import nodes
from vanishing.theory.maps import fixed_point

_GRID = 200  # points of each of the searches for the largest singular value


class Spectrum(NamedTuple):
    """Statistics of the squared singular values of a Jacobian, measured or predicted."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]
    largest: Float[Array, "..."]


@_arguments.checked
def predict_spectrum(
    activation: Nonlinearity,
    sigma_w: Scalar,
    sigma_b: Scalar,
    depth: Scalar,
    *,
    orthogonal: bool = False,
) -> Spectrum:
    """Squared singular values of the input-output Jacobian of a wide network at its fixed point.

    With mu_k = E[f'(u)^(2k)] the mean is (sigma_w^2 mu_1)^depth, the variance over the squared mean
    is depth (mu_2 / mu_1^2 - 1 - s), where s is -1 for Gaussian weights and 0 for orthogonal ones,
    and the largest is the edge of the product's spectrum in free probability: the minimum over z of
    (1 + z) / z / S(z)^depth, where S is the S-transform of one layer.

    Args:
      activation: a name of `layers.ACTIVATIONS`, a function, or an `Activation`.
      sigma_w: weights have the variance sigma_w^2 / fan_in.
      sigma_b: standard deviation of the biases.
      depth: number of layers.
      orthogonal: whether the weights are sigma_w times an orthogonal matrix, and not Gaussian.

    Reference: Pennington, Schoenholz & Ganguli, Resurrecting the sigmoid in deep learning through
    dynamical isometry, NeurIPS 2017, eq. 10 to 12; and The emergence of spectral universality in
    deep networks, AISTATS 2018, eq. 17.

    >>> linear = predict_spectrum("identity", 1.0, 0.0, 8)
    >>> print(f"{linear.mean:.2f} {linear.variance:.2f} {linear.largest:.2f}")  # 9^9 / 8^8
    1.00 8.00 23.09
    """
    facts = facts_of(activation)
    q = jnp.clip(fixed_point(activation, sigma_w=sigma_w, sigma_b=sigma_b), 1e-9, 1e6)
    m = facts.moments(q, 0.0)
    of_weights = 0.0 if orthogonal else 1.0
    mean = (sigma_w**2 * m.slope_square) ** depth
    spread = depth * (m.slope_fourth / m.slope_square**2 - 1 + of_weights)
    return Spectrum(mean, mean**2 * spread, _largest(facts, q, sigma_w, depth, of_weights))


def _largest(
    facts: Activation, q: Scalar, sigma_w: Scalar, depth: Scalar, of_weights: float
) -> Float[Array, ""]:
    """The edge of the spectrum; see `predict_spectrum`."""
    sigma = jnp.sqrt(q)
    rule = nodes([kink / sigma for kink in sorted({0.0, *facts.kinks})])
    slopes = jax.jvp(facts.function, (sigma * rule.z,), (jnp.ones_like(rule.z),))[1] ** 2
    top = jnp.max(slopes)

    def log_edge(log_above):  # at w = top (1 + e^log_above), where z = E[f'^2 / (w - f'^2)]
        w = top * (1 + jnp.exp(log_above))
        z = jnp.sum(rule.weight * slopes / (w - slopes))
        # S of f'^2 is (1 + z) / (z w), that of the weights 1 / (sigma_w^2 (1 + z)^g)
        log_s = (1 - of_weights) * jnp.log1p(z) - jnp.log(z * w * sigma_w**2)
        return jnp.log1p(1 / z) - depth * log_s

    def zoom(bounds, _):
        grid = jnp.linspace(bounds[0], bounds[1], _GRID)
        values = jax.vmap(log_edge)(grid)
        best = jnp.nanargmin(values)
        around = (grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _GRID - 1)])
        return around, grid[best]

    bounds = (jnp.asarray(-25.0, top.dtype), jnp.asarray(12.0, top.dtype))
    _, lowest = jax.lax.scan(zoom, bounds, length=3)
    # the value at a minimum does not depend on its position to the first order
    return jnp.exp(log_edge(jax.lax.stop_gradient(lowest[-1])))


@_arguments.checked
def singular_values(
    function: Callable[[Float[Array, "..."]], Float[Array, "..."]], x: Float[Array, "..."]
) -> Float[Array, " value"]:
    """The singular values of a function's Jacobian at one input, the largest first.

    It holds the whole matrix in memory; `spectrum` does not.

    Args:
      function: of one input, without the batch axis.
      x: that input.
    """
    _arguments.whole("the size of x", x.size, 1)
    jacobian = jax.jacrev(function)(x)
    return jnp.linalg.svd(jacobian.reshape(-1, x.size), compute_uv=False)


@_arguments.checked
def spectrum(
    function: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    x: Float[Array, "..."],
    key: PRNGKeyArray,
    *,
    probes: int = 64,
    iterations: int = 32,
) -> Spectrum:
    """Statistics of the squared singular values of a function's Jacobian, without the matrix.

    The mean and the variance are Hutchinson's estimates from products with random vectors, the
    largest comes from power iteration, and is never too large.

    Args:
      function: of one input, without the batch axis, of any network.
      x: that input.
      key: of the random vectors.
      probes: random vectors; the relative error of the mean is about sqrt(2 (1 + variance / mean^2)
        / (probes * size)).
      iterations: of the power iteration.

    Reference: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
    """
    _arguments.whole("the size of x", x.size, 1)
    _, forward = jax.linearize(function, x)
    backward = jax.linear_transpose(forward, x)

    def gram(v):
        (u,) = backward(forward(v))
        return u

    vectors = jax.random.rademacher(key, (probes, *x.shape), x.dtype)
    images = jax.lax.map(gram, vectors)
    mean = jnp.sum(vectors * images) / vectors.size
    square = jnp.sum(images**2) / vectors.size

    def step(v, _):
        u = gram(v / jnp.linalg.norm(v))
        return u, None

    v, _ = jax.lax.scan(step, gram(vectors[0]), length=iterations)
    return Spectrum(mean, square - mean**2, jnp.linalg.norm(v))
