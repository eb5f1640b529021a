"""Initialisers: how the kernels and biases of a network are drawn, by name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_initializers
from jaxtyping import Array, Float

Initializer = jax_initializers.Initializer
Scalar = float | int | Float[Array, ""]  # a traced scalar runs under `vmap`


class Weights(NamedTuple):
    """A kernel initialiser and a bias initialiser: `dense(features, *weights)`."""

    kernel_init: Initializer
    bias_init: Initializer = jax_initializers.zeros


def scaled(sigma_w: Scalar, sigma_b: Scalar = 0.0) -> Weights:
    """Gaussian weights in the scales that mean-field theory speaks in.

    kernel ~ N(0, sigma_w^2 / fan_in), bias ~ N(0, sigma_b^2), so that a layer maps a mean square
    q of its input to sigma_w^2 q + sigma_b^2.

    Args:
      sigma_w: standard deviation of the kernel times sqrt(fan_in); at least 0.
      sigma_b: standard deviation of the bias; at least 0.

    Reference: Poole et al., Exponential expressivity in deep neural networks through transient
    chaos, NeurIPS 2016, eq. 2.

    >>> kernel = scaled(2.0).kernel_init(jax.random.key(0), (400, 400), jnp.float32)
    >>> print(f"{jnp.std(kernel):.2f}")
    0.10
    """

    def kernel_init(key, shape, dtype=jnp.float32, out_sharding=None):
        lecun = jax_initializers.variance_scaling(1.0, "fan_in", "normal")
        return (sigma_w * lecun(key, shape, dtype, out_sharding)).astype(dtype)

    return Weights(kernel_init, _gaussian(sigma_b))


def textbook() -> Weights:
    """Every weight and bias from N(0, 1), whatever the fan_in.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 1.
    """
    return Weights(_gaussian(1.0), _gaussian(1.0))


def symmetric_uniform(scale: Scalar) -> Initializer:
    """Uniform on [-scale, scale). (`jax.nn.initializers.uniform` draws from [0, scale) instead.)"""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.uniform(key, shape, dtype, -1.0, 1.0, out_sharding=out_sharding)
        return (scale * unit).astype(dtype)

    return init


def _gaussian(sigma: Scalar) -> Initializer:
    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.normal(key, shape, dtype, out_sharding=out_sharding)
        return (sigma * unit).astype(dtype)

    return init


class Scales(NamedTuple):
    """The numbers that some of the named initialisers read; the others ignore them."""

    scale: Scalar = 1.0  # of constant, normal, uniform, orthogonal and delta_orthogonal
    sigma_w: Scalar = 1.0  # of scaled
    sigma_b: Scalar = 0.0  # of scaled


INITIALIZERS: dict[str, Callable[[Scales], Weights]] = {
    "zeros": lambda _: Weights(jax_initializers.zeros),
    "constant": lambda s: Weights(jax_initializers.constant(s.scale)),
    "normal": lambda s: Weights(_gaussian(s.scale)),
    "uniform": lambda s: Weights(symmetric_uniform(s.scale)),
    "lecun_normal": lambda _: Weights(jax_initializers.lecun_normal()),
    "lecun_uniform": lambda _: Weights(jax_initializers.lecun_uniform()),
    "glorot_normal": lambda _: Weights(jax_initializers.glorot_normal()),
    "glorot_uniform": lambda _: Weights(jax_initializers.glorot_uniform()),
    "xavier_normal": lambda _: Weights(jax_initializers.xavier_normal()),
    "xavier_uniform": lambda _: Weights(jax_initializers.xavier_uniform()),
    "he_normal": lambda _: Weights(jax_initializers.he_normal()),
    "he_uniform": lambda _: Weights(jax_initializers.he_uniform()),
    "kaiming_normal": lambda _: Weights(jax_initializers.kaiming_normal()),
    "kaiming_uniform": lambda _: Weights(jax_initializers.kaiming_uniform()),
    "orthogonal": lambda s: Weights(jax_initializers.orthogonal(s.scale)),
    "delta_orthogonal": lambda s: Weights(jax_initializers.delta_orthogonal(s.scale)),
    "textbook": lambda _: textbook(),
    "scaled": lambda s: scaled(s.sigma_w, s.sigma_b),
}


def by_name(name: str, scales: Scales = Scales()) -> Weights:
    """The initialisers that a name stands for; biases start at zero unless said otherwise.

    Args:
      name: one of `INITIALIZERS`. `delta_orthogonal` is for convolutions (kernels of 3 to 5 axes).
      scales: the numbers that "constant", "normal", "uniform", "orthogonal" and "scaled" read.

    Raises:
      ValueError: the name is not on offer.

    >>> weights = by_name("he_normal")
    >>> weights.bias_init(jax.random.key(0), (2,), jnp.float32)
    Array([0., 0.], dtype=float32)
    """
    if name not in INITIALIZERS:
        raise ValueError(f"initializer is {name!r}; it must be one of {', '.join(INITIALIZERS)}.")
    return INITIALIZERS[name](scales)
