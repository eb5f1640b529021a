"""Initialisers of the kernels and biases of a network, with the mean squares that theory reads."""

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
    """An initialiser whose entries have mean zero and a known mean square, which theory reads.

    Called as those of `jax.nn.initializers` are, `(key, shape, dtype) -> array`.

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


@_arguments.checked
def known(initializer: Initializer) -> ZeroMean:
    """The initialiser as one whose mean square is known.

    Raises:
      ValueError: its mean square is not known.
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


@_arguments.checked
def constant(value: Scalar) -> Initializer:
    """`jax.nn.initializers.constant`: every entry is the value, so that theory does not follow it.

    >>> print(constant(-2.0)(jax.random.key(0), (2,), jnp.float32))
    [-2. -2.]
    """
    return jax_initializers.constant(value)


@_arguments.checked
def normal(stddev: Scalar = 1e-2) -> ZeroMean:
    """`jax.nn.initializers.normal`: N(0, stddev^2), whatever the fan_in; `stddev` may be traced."""

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.normal(key, shape, dtype, out_sharding=out_sharding)
        return (stddev * unit).astype(dtype)

    return ZeroMean(draw, lambda shape: stddev**2)


@_arguments.checked(scale=_arguments.AT_LEAST_0)
def symmetric_uniform(scale: Scalar) -> ZeroMean:
    """Uniform on [-scale, scale). (`jax.nn.initializers.uniform` draws from [0, scale) instead.)"""

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        unit = jax.random.uniform(key, shape, dtype, -1.0, 1.0, out_sharding=out_sharding)
        return (scale * unit).astype(dtype)

    return ZeroMean(draw, lambda shape: scale**2 / 3)


def lecun_normal() -> ZeroMean:
    """`jax.nn.initializers.lecun_normal`: the mean square is 1 / fan_in."""
    return _variance_scaling(jax_initializers.lecun_normal(), _lecun)


def lecun_uniform() -> ZeroMean:
    """`jax.nn.initializers.lecun_uniform`: the mean square is 1 / fan_in."""
    return _variance_scaling(jax_initializers.lecun_uniform(), _lecun)


def glorot_normal() -> ZeroMean:
    """`jax.nn.initializers.glorot_normal`: the mean square is 2 / (fan_in + fan_out)."""
    return _variance_scaling(jax_initializers.glorot_normal(), _glorot)


def glorot_uniform() -> ZeroMean:
    """`jax.nn.initializers.glorot_uniform`: the mean square is 2 / (fan_in + fan_out)."""
    return _variance_scaling(jax_initializers.glorot_uniform(), _glorot)


def he_normal() -> ZeroMean:
    """`jax.nn.initializers.he_normal`: the mean square is 2 / fan_in."""
    return _variance_scaling(jax_initializers.he_normal(), _he)


def he_uniform() -> ZeroMean:
    """`jax.nn.initializers.he_uniform`: the mean square is 2 / fan_in."""
    return _variance_scaling(jax_initializers.he_uniform(), _he)


def _lecun(fan_in: int, fan_out: int) -> float:
    del fan_out  # keeps the signal alone
    return 1 / fan_in


def _glorot(fan_in: int, fan_out: int) -> float:
    return 2 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int) -> float:
    del fan_out  # keeps the signal alone
    return 2 / fan_in


def _variance_scaling(draw: Initializer, variance: Callable[[int, int], Scalar]) -> ZeroMean:
    def mean_square(shape):
        places = math.prod(shape[:-2])
        return variance(places * shape[-2], places * shape[-1])

    return ZeroMean(draw, mean_square)


class Weights(NamedTuple):
    """A kernel initialiser and a bias initialiser: `dense(features, *weights)`."""

    kernel_init: Initializer
    bias_init: Initializer = zeros


@_arguments.checked
def scaled(sigma_w: Scalar, sigma_b: Scalar = 0.0) -> Weights:
    """Gaussian weights, parametrised as in mean-field theory.

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
    return Weights(known, normal(sigma_b))


def textbook() -> Weights:
    """Every weight and bias from N(0, 1), whatever the fan_in.

    Reference: Nielsen, Neural networks and deep learning, 2015, chapter 1.
    """
    return Weights(normal(1.0), normal(1.0))


@_arguments.checked
def rescaled(initializer: Initializer, factor: Scalar) -> Initializer:
    """The same initialiser with every entry multiplied by a number.

    >>> init = rescaled(lecun_normal(), 0.5)
    >>> print(init.mean_square((4, 4)))
    0.0625
    """

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        weights = initializer(key, shape, dtype, out_sharding=out_sharding)
        return (factor * weights).astype(dtype)

    if not isinstance(initializer, ZeroMean):
        return draw
    return dataclasses.replace(
        initializer, draw=draw, mean_square=lambda shape: factor**2 * initializer.mean_square(shape)
    )


@_arguments.checked
def orthogonal(scale: Scalar = 1.0) -> ZeroMean:
    """`scale` times an orthogonal matrix, which keeps the length of every vector.

    Reference: Saxe, McClelland & Ganguli, Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks, ICLR 2014.
    """

    def mean_square(shape):
        return scale**2 / max(math.prod(shape[:-1]), shape[-1])

    return ZeroMean(jax_initializers.orthogonal(scale), mean_square, orthogonal=True)


@_arguments.checked
def delta_orthogonal(scale: Scalar = 1.0) -> ZeroMean:
    """`scale` times `jax.nn.initializers.delta_orthogonal`, for convolutions.

    The kernel, of 3 to 5 axes, is zero but for an orthogonal matrix in its middle.

    Reference: Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018, sec. 3.
    """

    def mean_square(shape):
        return scale**2 / math.prod((*shape[:-2], shape[-1]))

    return ZeroMean(jax_initializers.delta_orthogonal(scale), mean_square, orthogonal=True)


@_arguments.checked
def identity(scale: Scalar = 1.0) -> Initializer:
    """`scale` times the identity, for the kernel of a recurrent layer; nothing is random.

    The mean of its entries is not zero, so mean-field theory does not follow it.

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


class Scales(NamedTuple):
    """Numbers that some of the named initialisers read; the others ignore them."""

    scale: Scalar = 1.0  # of constant, normal, uniform, identity and the two orthogonal ones
    sigma_w: Scalar = 1.0  # of scaled
    sigma_b: Scalar = 0.0  # of scaled


# By name, from the scales that some of them need.
INITIALIZERS: dict[str, Callable[[Scales], Weights]] = {
    "zeros": lambda _: Weights(zeros),
    "constant": lambda s: Weights(constant(s.scale)),
    "normal": lambda s: Weights(normal(s.scale)),
    "uniform": lambda s: Weights(symmetric_uniform(s.scale)),
    "lecun_normal": lambda _: Weights(lecun_normal()),
    "lecun_uniform": lambda _: Weights(lecun_uniform()),
    "glorot_normal": lambda _: Weights(glorot_normal()),
    "glorot_uniform": lambda _: Weights(glorot_uniform()),
    "xavier_normal": lambda _: Weights(glorot_normal()),
    "xavier_uniform": lambda _: Weights(glorot_uniform()),
    "he_normal": lambda _: Weights(he_normal()),
    "he_uniform": lambda _: Weights(he_uniform()),
    "kaiming_normal": lambda _: Weights(he_normal()),
    "kaiming_uniform": lambda _: Weights(he_uniform()),
    "orthogonal": lambda s: Weights(orthogonal(s.scale)),
    "identity": lambda s: Weights(identity(s.scale)),
    "delta_orthogonal": lambda s: Weights(delta_orthogonal(s.scale)),
    "textbook": lambda _: textbook(),
    "scaled": lambda s: scaled(s.sigma_w, s.sigma_b),
}


@_arguments.checked
def by_name(name: str, scales: Scales = Scales()) -> Weights:
    """The initialisers of a name, for flags; biases start at zero but for "textbook" and "scaled".

    Code calls the functions of this module instead.

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
