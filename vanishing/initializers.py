"""Initialisers: how the kernels and biases of a network are drawn, by name."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_initializers

from vanishing import _arguments
from vanishing._types import Scalar

Initializer = jax_initializers.Initializer  # (key, shape, dtype) -> array


@dataclasses.dataclass(frozen=True)
class ZeroMean:
    """An initialiser whose entries have mean zero and a mean square that is known.

    Called as those of `jax.nn.initializers` are, `(key, shape, dtype) -> array`. What the theory of
    a network has to know of its weights stands beside the draw.

    >>> init = ZeroMean(jax_initializers.normal(0.5), lambda shape: 0.25)
    >>> init(jax.random.key(0), (3, 4), jnp.float32).shape, init.mean_square((3, 4))
    ((3, 4), 0.25)
    """

    draw: Initializer
    mean_square: Callable[[Sequence[int]], Scalar]  # of one entry, for an array of this shape
    orthogonal: bool = False  # a multiple of an orthogonal matrix, not independent entries

    def __call__(self, key, shape, dtype=jnp.float32, out_sharding=None):
        """Draw an array."""
        return self.draw(key, shape, dtype, out_sharding=out_sharding)


def known(initializer: Initializer) -> ZeroMean:
    """The initialiser, where its mean square is known.

    Raises:
      ValueError: nothing is known of it.
    """
    if isinstance(initializer, ZeroMean):
        return initializer
    if initializer is jax_initializers.zeros:
        return zeros
    raise ValueError(
        f"no mean square is known of the entries that {_name(initializer)} draws; take an "
        "initializer of vanishing.initializers, or wrap yours: "
        "initializers.ZeroMean(draw, mean_square)."
    )


def _name(initializer: Initializer) -> str:
    return getattr(initializer, "__qualname__", repr(initializer))


zeros = ZeroMean(jax_initializers.zeros, lambda shape: 0.0)  # all zeros, the usual bias


def lecun_normal() -> ZeroMean:
    """`jax.nn.initializers.lecun_normal`: the mean square is 1 / fan_in."""
    return _variance_scaling(jax_initializers.lecun_normal(), lambda fan_in, fan_out: 1 / fan_in)


def _variance_scaling(draw: Initializer, variance: Callable[[int, int], Scalar]) -> ZeroMean:
    def of_shape(shape):
        places = math.prod(shape[:-2])
        return variance(places * shape[-2], places * shape[-1])

    return ZeroMean(draw, of_shape)


class Weights(NamedTuple):
    """A kernel initialiser and a bias initialiser: `dense(features, *weights)`."""

    kernel_init: Initializer
    bias_init: Initializer = zeros


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

    known = _variance_scaling(kernel_init, lambda fan_in, fan_out: sigma_w**2 / fan_in)
    return Weights(known, _gaussian(sigma_b))


def textbook() -> Weights:
    """Every weight and bias from N(0, 1), whatever the fan_in.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 1.
    """
    return Weights(_gaussian(1.0), _gaussian(1.0))


def rescaled(initializer: Initializer, factor: Scalar) -> Initializer:
    """The same initialiser with every entry multiplied by a number.

    >>> init = rescaled(lecun_normal(), 0.5)
    >>> print(init.mean_square((4, 4)))
    0.0625
    """

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        drawn = initializer(key, shape, dtype, out_sharding=out_sharding)
        return (factor * drawn).astype(dtype)

    if not isinstance(initializer, ZeroMean):
        return draw
    return dataclasses.replace(
        initializer, draw=draw, mean_square=lambda shape: factor**2 * initializer.mean_square(shape)
    )


def symmetric_uniform(scale: Scalar) -> ZeroMean:
    """Uniform on [-scale, scale). (`jax.nn.initializers.uniform` draws from [0, scale) instead.)"""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.uniform(key, shape, dtype, -1.0, 1.0, out_sharding=out_sharding)
        return (scale * unit).astype(dtype)

    return ZeroMean(init, lambda shape: scale**2 / 3)


def _gaussian(sigma: Scalar) -> ZeroMean:
    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.normal(key, shape, dtype, out_sharding=out_sharding)
        return (sigma * unit).astype(dtype)

    return ZeroMean(init, lambda shape: sigma**2)


def orthogonal(scale: Scalar = 1.0) -> ZeroMean:
    """`scale` times an orthogonal matrix: it keeps the length of every vector, but for the scale.

    Reference: Saxe, McClelland & Ganguli, Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks, ICLR 2014.
    """

    def of_shape(shape):
        return scale**2 / max(math.prod(shape[:-1]), shape[-1])

    return ZeroMean(jax_initializers.orthogonal(scale), of_shape, orthogonal=True)


def identity(scale: Scalar = 1.0) -> Initializer:
    """`scale` times the identity, for the kernel of a recurrent layer; nothing is random.

    Its entries have no mean of zero, so mean-field theory does not follow it.

    Reference: Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified
    linear units, 2015.

    >>> print(identity(0.5)(jax.random.key(0), (2, 2), jnp.float32))
    [[0.5 0. ]
     [0.  0.5]]
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del key  # nothing is random
        if len(shape) != 2:
            raise ValueError(f"identity draws a matrix, not an array of shape {tuple(shape)}.")
        return (scale * jnp.eye(*shape, dtype=dtype, device=out_sharding)).astype(dtype)

    return init


def _delta_orthogonal(scale: Scalar) -> ZeroMean:
    def of_shape(shape):
        return scale**2 / math.prod((*shape[:-2], shape[-1]))  # all but the middle tap are zero

    return ZeroMean(jax_initializers.delta_orthogonal(scale), of_shape, orthogonal=True)


class Scales(NamedTuple):
    """The numbers that some of the named initialisers read; the others ignore them."""

    scale: Scalar = 1.0  # of constant, normal, uniform, identity and the two orthogonal ones
    sigma_w: Scalar = 1.0  # of scaled
    sigma_b: Scalar = 0.0  # of scaled


_FANS: dict[str, Callable[[int, int], float]] = {  # the mean square of each family
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "kaiming": lambda fan_in, fan_out: 2 / fan_in,
}
_FAMILIES = {
    f"{family}_{distribution}": lambda _, name=f"{family}_{distribution}", variance=variance: (
        Weights(_variance_scaling(getattr(jax_initializers, name)(), variance))
    )
    for family, variance in _FANS.items()
    for distribution in ("normal", "uniform")
}
# By name, from the scales that some of them need.
INITIALIZERS: dict[str, Callable[[Scales], Weights]] = {
    "zeros": lambda _: Weights(zeros),
    "constant": lambda s: Weights(jax_initializers.constant(s.scale)),
    "normal": lambda s: Weights(_gaussian(s.scale)),
    "uniform": lambda s: Weights(symmetric_uniform(s.scale)),
    **_FAMILIES,
    "orthogonal": lambda s: Weights(orthogonal(s.scale)),
    "identity": lambda s: Weights(identity(s.scale)),
    "delta_orthogonal": lambda s: Weights(_delta_orthogonal(s.scale)),
    "textbook": lambda _: textbook(),
    "scaled": lambda s: scaled(s.sigma_w, s.sigma_b),
}


def by_name(name: str, scales: Scales = Scales()) -> Weights:
    """The initialisers that a name stands for; biases start at zero unless said otherwise.

    Args:
      name: one of `INITIALIZERS`. `delta_orthogonal` is for convolutions (kernels of 3 to 5 axes).
      scales: the numbers that some of them read.

    Raises:
      ValueError: the name is not on offer.

    >>> weights = by_name("he_normal")
    >>> weights.bias_init(jax.random.key(0), (2,), jnp.float32)
    Array([0., 0.], dtype=float32)
    """
    _arguments.one_of("initializer", name, INITIALIZERS)
    return INITIALIZERS[name](scales)
