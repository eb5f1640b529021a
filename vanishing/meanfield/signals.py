"""The mean-field signal: the moments of a wide network's activations and gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import DEPTH, Scalar


class Gain(NamedTuple):
    """The map of the gradient's second moments from a layer's output back to its input.

    The moments are those of the cotangents g of a unit h, for one input and for two (primed):
    (E[g^2], E[g g'], E[g^2 h^2] / q, E[g g' h h'] / q), summed over units, where q = E[h^2]. The
    last two are what batch normalisation projects away; they depend on the layer above. The matrix
    is kept near 1 and its scale as a logarithm, so that no depth makes it underflow.

    This holds at infinite width. `log_variance` measures how far a network of finite width strays:
    the variance of the logarithm of its squared gradient norm, to the first order in 1 / width.
    """

    matrix: Float[Array, "*rows 4 4"]
    log_scale: Float[Array, "*rows"]
    log_variance: Float[Array, "*rows"]

    def after(self, above: "Gain") -> "Gain":
        """The gain of this layer with another one above it; both may have leading axes."""
        return _scaled(
            self.matrix @ above.matrix,
            self.log_scale + above.log_scale,
            self.log_variance + above.log_variance,
        )

    def plus(self, other: "Gain") -> "Gain":
        """The gain of two paths whose cotangents are uncorrelated."""
        largest = jnp.maximum(self.log_scale, other.log_scale)
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
        first = self.matrix * jnp.exp(self.log_scale - largest)[..., None, None]
        second = other.matrix * jnp.exp(other.log_scale - largest)[..., None, None]
        fraction = first[..., 0, 0] / _nonzero(first[..., 0, 0] + second[..., 0, 0])
        variance = fraction**2 * self.log_variance + (1 - fraction) ** 2 * other.log_variance
        return _scaled(first + second, largest, variance)

    def times(self, factor: Scalar) -> "Gain":
        """The gain with all second moments that come back multiplied by a number."""
        return _scaled(self.matrix * factor, self.log_scale, self.log_variance)

    def log_of(self, gradient: Float[Array, "4"]) -> Float[Array, "*rows"]:
        """log E[g^2] before the layer for these moments after it."""
        return _log((self.matrix @ gradient)[..., 0]) + self.log_scale

    def correlation_of(self, gradient: Float[Array, "4"]) -> Float[Array, "*rows"]:
        """E[g g'] / E[g^2] before the layer for these moments after it."""
        moments = self.matrix @ gradient
        return moments[..., 1] / _nonzero(moments[..., 0])


def _scaled(
    matrix: Float[Array, "*rows 4 4"],
    log_scale: Float[Array, "*rows"],
    log_variance: Float[Array, "*rows"],
) -> Gain:
    # Any positive scale is right, so none of it needs a gradient.
    largest = _nonzero(jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), axis=(-2, -1))))
    return Gain(matrix / largest[..., None, None], log_scale + jnp.log(largest), log_variance)


def _nonzero(x: Array) -> Array:
    return jnp.where(x > 0, x, 1.0)


def _log(x: Array) -> Array:
    zero = x == 0  # where the slope of the logarithm is infinite
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, x)))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_q", "decorrelation", "relative_mean", "gain"],
    meta_fields=["path", "has_parameters", "op", "size"],
)
@no_type_check  # at run time: JAX puts anything in the place of arrays when it rebuilds a tree
@dataclasses.dataclass(frozen=True)
class PredictedRow:
    """The signal after one layer of a network, and the gain from there to the network's end."""

    log_q: Float[Array, "*depth"]  # as in `Signal`, with an axis for each axis of depth
    decorrelation: Float[Array, "*depth"]
    relative_mean: Float[Array, "*depth"]
    gain: Gain
    path: tuple[str, ...]  # names of the layers around it; `DEPTH` for each axis of depth
    has_parameters: bool
    op: str | Callable  # of a layer without parameters: a word, or the activation function
    size: int  # number of units


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows"],
    meta_fields=["batch", "train", "path", "fresh", "has_parameters", "op"],
)
@dataclasses.dataclass(frozen=True)
class Walk:
    """The walk of a signal through a network: how it set out, where it is, what lies behind it."""

    batch: int  # number of inputs that are normalised together
    train: bool = True  # whether dropout and batch normalisation behave as in training
    path: tuple[str, ...] = ()  # names of the layers around this place
    fresh: bool = True  # whether weights were drawn since the innermost residual branch began
    has_parameters: bool = False  # whether the last layer has
    op: str | Callable = ""  # of the last layer, where it has none; as in `PredictedRow`
    rows: tuple[PredictedRow, ...] = ()  # of the layers since the innermost combinator began

    @property
    def place(self) -> str:
        """The place, for an error message."""
        return ".".join(self.path).replace("." + DEPTH, DEPTH) or "the network"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_q", "decorrelation", "relative_mean", "gain", "walk"],
    meta_fields=["shape", "gaussian"],
)
@no_type_check  # at run time: JAX puts anything in the place of arrays when it rebuilds a tree
@dataclasses.dataclass(frozen=True)
class Signal:
    """The signal at one place of an infinitely wide network, which a layer's `propagate` maps.

    It describes a batch of inputs that are alike in norm and in the angle between any two, and a
    unit h of the place, random over the weights. Its size is kept as a logarithm and the rest
    relative to it: a thousand layers of a factor 2 are more than a float holds.
    """

    log_q: Float[Array, ""]  # log E[h^2]
    decorrelation: Float[Array, ""]  # E[(h - h')^2] / 2 for two inputs, over E[h^2]
    relative_mean: Float[Array, ""]  # E[h] / sqrt(E[h^2])
    gain: Gain  # of the layers since the innermost combinator began
    shape: tuple[int, ...]  # of one input at this place, without the batch axis
    gaussian: bool  # whether h is normal, as behind a dense layer
    walk: Walk

    @property
    def q(self) -> Array:
        """E[h^2]."""
        return jnp.exp(self.log_q)

    @property
    def difference(self) -> Array:
        """E[(h - h')^2] / 2 for two inputs: q minus their covariance."""
        return self.q * self.decorrelation

    @property
    def mean(self) -> Array:
        """E[h]."""
        return jnp.exp(self.log_q / 2) * self.relative_mean

    @property
    def covariance(self) -> Array:
        """E[h h'] for two inputs."""
        return self.q * (1 - self.decorrelation)

    @property
    def correlation(self) -> Array:
        """E[h h'] / E[h^2] for two inputs; 1 where the signal is 0."""
        return 1 - self.decorrelation

    @property
    def size(self) -> int:
        """Number of units."""
        return int(np.prod(self.shape, dtype=int))

    def restarted(self) -> "Signal":
        """The same signal with no history: no rows, and a gain of one."""
        return self.inside()

    def inside(self, *names: str) -> "Signal":
        """The same signal as it enters a layer of this name, with no history."""
        walk = dataclasses.replace(self.walk, path=(*self.walk.path, *names), rows=())
        return dataclasses.replace(self, gain=identity_gain(self.log_q), walk=walk)

    def scaled(
        self,
        q: Scalar,
        difference: Scalar,
        mean: Scalar,
        *,
        gain: Gain | None,
        log_unit: Array | None = None,
        shape: tuple[int, ...] | None = None,
        gaussian: bool | None = None,
        fresh: bool | None = None,
        has_parameters: bool | None = None,
        op: str | Callable | None = None,
    ) -> "Signal":
        """The signal after a layer that makes these moments of a signal of mean square 1.

        What is None stays as it was before the layer. The gain has no default, since what a layer
        does to the gradient does not follow from these moments: `linear_gain` is that of a layer
        whose slope does not depend on its input, `elementwise_gain` that of any other which treats
        unit by unit.

        Args:
          q: mean square; likewise `difference` and `mean`.
          difference: half the mean-square difference of two inputs.
          mean: of a unit.
          gain: of the layer alone; it is added to that of the layers before.
          log_unit: logarithm of the unit of these; by default the mean square before the layer.
          shape: of one input after the layer.
          gaussian: as in `Signal`.
          fresh: as in `Walk`.
          has_parameters: as in `Walk`.
          op: as in `Walk`.
        """
        dtype = self.log_q.dtype
        q = jnp.asarray(q, dtype)
        safe_q = _nonzero(q)
        walk = {"fresh": fresh, "has_parameters": has_parameters, "op": op}
        return dataclasses.replace(
            self,
            log_q=(self.log_q if log_unit is None else log_unit) + _log(q),
            decorrelation=jnp.asarray(difference, dtype) / safe_q,
            relative_mean=jnp.asarray(mean, dtype) / jnp.sqrt(safe_q),
            gain=self.gain if gain is None else self.gain.after(gain),
            shape=self.shape if shape is None else shape,
            gaussian=self.gaussian if gaussian is None else gaussian,
            walk=dataclasses.replace(
                self.walk, **{name: value for name, value in walk.items() if value is not None}
            ),
        )

    def then(self, q: Scalar, difference: Scalar, mean: Scalar, **changes: Any) -> "Signal":
        """The signal after a layer, with these moments; see `scaled`."""
        return self.scaled(q, difference, mean, log_unit=jnp.zeros_like(self.log_q), **changes)

    def row(self, gain: Gain) -> PredictedRow:
        """This place as a row, with the gain from here to the end of the layer around it."""
        return PredictedRow(
            log_q=self.log_q,
            decorrelation=self.decorrelation,
            relative_mean=self.relative_mean,
            gain=gain,
            path=self.walk.path,
            has_parameters=self.walk.has_parameters,
            op=self.walk.op,
            size=self.size,
        )


@_arguments.checked
def signal(
    q: Scalar = 1.0,
    correlation: Scalar = 0.0,
    *,
    mean: Scalar = 0.0,
    shape: tuple[int, ...] = (1,),
    batch: int = 2,
    train: bool = True,
    gaussian: bool = False,
) -> Signal:
    """The signal at the input of a network.

    Args:
      q: mean square of an input's features; at least 0.
      correlation: cosine of the angle between any two inputs, in [-1, 1].
      mean: of an input's features.
      shape: of one input, without the batch axis.
      batch: how many inputs batch normalisation sees at once.
      train: whether dropout and batch normalisation behave as in training.
      gaussian: whether the features are normal, so that an activation may come first.

    >>> print(f"{signal(2.0, 0.5).difference:.1f}")
    1.0
    """
    zero = jnp.zeros((), jax.dtypes.canonicalize_dtype(float))
    start = Signal(
        log_q=zero,
        decorrelation=zero,
        relative_mean=zero,
        gain=identity_gain(zero),
        shape=shape,
        gaussian=gaussian,
        walk=Walk(batch=batch, train=train),
    )
    return start.then(q, q * (1 - jnp.asarray(correlation, zero.dtype)), mean, gain=None)


def identity_gain(like: Array) -> Gain:
    """The gain of no layer at all, in this array's dtype."""
    dtype = jnp.asarray(like).dtype
    return Gain(jnp.eye(4, dtype=dtype), jnp.zeros((), dtype), jnp.zeros((), dtype))


@_arguments.checked
def elementwise_gain(
    square: Scalar,
    product: Scalar,
    weighted_square: Scalar,
    weighted_product: Scalar,
    log_variance: Scalar = 0.0,
) -> Gain:
    """The gain of a layer that treats every input of the batch by itself.

    Args:
      square: factor by which it multiplies E[g^2].
      product: factor by which it multiplies E[g g'].
      weighted_square: E[g^2 h^2] / q at its input, of an E[g^2] of 1 at its output.
      weighted_product: E[g g' h h'] / q at its input, of an E[g g'] of 1 at its output.
      log_variance: see `Gain`.
    """
    entries = jnp.stack(
        [jnp.asarray(x, float) for x in (square, product, weighted_square, weighted_product)]
    )
    columns = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    matrix = jnp.concatenate([entries[:, None] * columns, jnp.zeros((4, 2), entries.dtype)], axis=1)
    zero = jnp.zeros((), entries.dtype)
    return _scaled(matrix, zero, zero + log_variance)


@_arguments.checked
def linear_gain(before: Signal, square: Scalar, log_variance: Scalar = 0.0) -> Gain:
    """The gain of a layer whose cotangents do not depend on the value at its input."""
    square = jnp.asarray(square, before.log_q.dtype)
    return elementwise_gain(square, square, square, square * before.correlation, log_variance)


def output_gradient(end: Signal, correlation: Scalar) -> Float[Array, "4"]:
    """Moments, at a network's output, of a loss gradient that is independent of the network."""
    one = jnp.ones_like(end.log_q)
    return jnp.stack([one, correlation * one, one, correlation * end.correlation])


def unknown(reason: str, before: Signal) -> ValueError:
    """The error for a layer that theory cannot follow."""
    return ValueError(f"{before.walk.place}: {reason}")
