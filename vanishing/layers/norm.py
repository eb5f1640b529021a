"""Layers that normalise or drop: batch, layer, root-mean-square and group norms, dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vanishing import _arguments
from vanishing._types import Scalar
from vanishing.layers.base import Applied, Layer, Variables
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import Gain, elementwise_gain, linear_gain, unknown


@_arguments.checked(momentum=_arguments.FRACTION)
def batch_norm(momentum: float = 0.99, epsilon: float = 1e-5) -> Layer:
    """Batch normalisation of each channel, the last axis, over all others.

    Parameters are `scale` and `bias`, the state is `mean` and `var`, all of shape (channels,) and
    spelt as Flax spells them. While training it normalises by the batch and moves the state
    towards the batch's statistics; otherwise it normalises by the state.

    Theory follows it behind a dense layer. In training it takes the batch's size into account:
    exactly before an activation that scales with its input, such as ReLU; before another one it
    leaves out that a batch's normalised numbers are not quite normal, which is 10 % of tanh's slope
    at a batch of 32 and nearly half of it at 8. Without training it uses its fresh state, which
    leaves the signal as it is.

    Args:
      momentum: fraction of the state that a training batch leaves, in [0, 1].
      epsilon: added to the variance.

    Raises:
      ValueError: a number is out of its range.

    Reference: Ioffe & Szegedy, Batch normalization, ICML 2015, algorithm 1; Yang et al., A mean
    field theory of batch normalization, ICLR 2019, for the signal and its gradient.

    >>> layer = batch_norm()
    >>> x = jnp.array([[0.0], [2.0]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> print(layer.apply(params, state, x, train=True).output.round(3).ravel())
    [-1.  1.]
    """
    _arguments.at_least("epsilon", epsilon, 0, owner="batch_norm")

    def init(key, x):
        del key  # nothing is random
        ones, zeros = jnp.ones(x.shape[-1:], x.dtype), jnp.zeros(x.shape[-1:], x.dtype)
        return Variables(params={"scale": ones, "bias": zeros}, state={"mean": zeros, "var": ones})

    def apply(
        params, state, x: Float[jax.Array | np.ndarray, "*batch channels"], key=None, train=False
    ):
        del key  # deterministic
        mean, var = state["mean"], state["var"]
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            state = {
                "mean": momentum * state["mean"] + (1 - momentum) * mean,
                "var": momentum * state["var"] + (1 - momentum) * var,
            }
        return Applied(_normalised(params, x, mean, var, epsilon), state)

    return Layer(init, apply, functools.partial(_propagate_batch_norm, epsilon))


def _propagate_batch_norm(epsilon: float, signal: Signal) -> Signal:
    """The signal after batch normalisation; see `batch_norm`."""
    if not signal.walk.train:
        gain = 1 / (1 + epsilon)
        return signal.scaled(
            q=gain,
            difference=gain * signal.decorrelation,
            mean=gain**0.5 * signal.relative_mean,
            gain=linear_gain(signal, gain),
            has_parameters=True,
        )
    n = signal.walk.batch
    if not signal.gaussian:
        raise unknown(
            "batch_norm meets a signal that is not normal, whose units differ in variance; "
            "theory follows one behind a dense layer.",
            signal,
        )
    if len(signal.shape) > 1:
        raise unknown(
            "batch_norm over the places of an image depends on the covariance between places, "
            "which is not followed.",
            signal,
        )
    if n < 4:
        raise unknown(
            f"batch_norm has a finite gradient on average from a batch of 4, not of {n}.",
            signal,
        )
    variance = signal.decorrelation * (n - 1) / n  # within the batch, over the mean square
    fraction = variance / (variance + epsilon * jnp.exp(-signal.log_q))
    return signal.then(
        q=fraction,
        difference=fraction * n / (n - 1),  # a batch of mean 0: its correlation is -1 / (n - 1)
        mean=0.0,
        gain=_batch_norm_gain(signal, epsilon),
        has_parameters=True,
    )


def _batch_norm_gain(before: Signal, epsilon: float) -> Gain:
    """The mean square that comes back through the normalisation of a batch of n.

    The pre-activations of a unit over the batch, their mean taken off, are a point of n - 1
    dimensions whose direction and length s are independent. Its normalisation projects a cotangent
    g on what is orthogonal to (1, ..., 1) and to the output y, and divides it by s / sqrt(n), where
    E[n / s^2] = n / (difference (n - 3)). With E[g^2] = a, E[g g'] = b, E[g^2 y^2] = c and
    E[g g' y y'] = d the projection keeps a - (a + (n - 1) b) / n - (c + (n - 1) d) / n.
    """
    n, dtype = before.walk.batch, before.log_q.dtype
    # over the mean square, which goes into the scale
    inverse_variance = n / (before.decorrelation * (n - 3) + epsilon * n * jnp.exp(-before.log_q))
    shares = jnp.array([1 - 1 / n, -(n - 1) / n, -1 / n, -(n - 1) / n], dtype)
    square = inverse_variance * shares
    product = -square / (n - 1)  # the batch's cotangents add up to 0
    return Gain(
        jnp.stack([square, product, square, before.correlation * product]),
        -before.log_q,
        jnp.zeros((), dtype),
    )


@_arguments.checked
def layer_norm(epsilon: float = 1e-6) -> Layer:
    """Layer normalisation: every input by itself, over its last axis.

    Parameters are `scale` and `bias` of shape (features,), spelt as Flax spells them. Theory
    follows it for many features, where what its gradient projects away does not count.

    Args:
      epsilon: added to the variance.

    Raises:
      ValueError: `epsilon` is negative.

    Reference: Ba, Kiros & Hinton, Layer normalization, 2016, eq. 3.

    >>> layer = layer_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> print(layer.apply(params, state, jnp.array([[0.0, 2.0]])).output.round(3))
    [[-1.  1.]]
    """
    _arguments.at_least("epsilon", epsilon, 0, owner="layer_norm")

    def init(key, x):
        del key  # nothing is random
        ones, zeros = jnp.ones(x.shape[-1:], x.dtype), jnp.zeros(x.shape[-1:], x.dtype)
        return Variables(params={"scale": ones, "bias": zeros}, state={})

    def apply(
        params, state, x: Float[jax.Array | np.ndarray, "*batch features"], key=None, train=False
    ):
        del key, train  # deterministic, and the same in training
        mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return Applied(_normalised(params, x, mean, var, epsilon), state)

    return Layer(init, apply, lambda signal: _standardized(signal, epsilon))


@_arguments.checked
def rms_norm(epsilon: float = 1e-6) -> Layer:
    """Root-mean-square normalisation: every input over the root of its mean square.

    `x / sqrt(mean(x^2) + epsilon) * scale`, the mean over the last axis. The parameter is `scale`
    of shape (features,), spelt as Flax spells it. Theory follows it for many features, as it does
    `layer_norm`; it keeps the mean.

    Args:
      epsilon: added to the mean square.

    Raises:
      ValueError: `epsilon` is negative.

    Reference: Zhang & Sennrich, Root mean square layer normalization, NeurIPS 2019, eq. 4.

    >>> layer = rms_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> print(layer.apply(params, state, jnp.array([[3.0, -3.0]])).output.round(3))
    [[ 1. -1.]]
    """
    _arguments.at_least("epsilon", epsilon, 0, owner="rms_norm")

    def init(key, x):
        del key  # nothing is random
        return Variables(params={"scale": jnp.ones(x.shape[-1:], x.dtype)}, state={})

    def apply(
        params, state, x: Float[jax.Array | np.ndarray, "*batch features"], key=None, train=False
    ):
        del key, train  # deterministic, and the same in training
        square = jnp.mean(jnp.square(x), -1, keepdims=True)
        scale = jnp.broadcast_to(params["scale"], x.shape)
        return Applied(jax.lax.rsqrt(square + epsilon) * x * scale, state)

    def propagate(signal: Signal) -> Signal:
        factor = 1 / (1 + epsilon * jnp.exp(-signal.log_q))
        return _divided(signal, factor, factor, factor**0.5 * signal.relative_mean)

    return Layer(init, apply, propagate)


@_arguments.checked
def group_norm(groups: int, epsilon: float = 1e-6) -> Layer:
    """Group normalisation: every input by itself, over its places and the channels of a group.

    Parameters are `scale` and `bias` of shape (channels,), spelt as Flax spells them. Theory
    follows it for many units in a group: behind a dense layer a group of n multiplies the mean
    square of the gradient by (n - 2) / (n - 3), which it leaves out. Units at neighbouring places
    are alike and count for less.

    Args:
      groups: of equal size and neighbouring channels; at least 1.
      epsilon: added to the variance.

    Returns:
      A layer from (batch, *places, channels) to the same shape.

    Raises:
      ValueError: `groups` is under 1 or `epsilon` negative, or the input has no batch axis or a
        number of channels that is no multiple of `groups`.

    Reference: Wu & He, Group normalization, ECCV 2018, eq. 7.

    >>> layer = group_norm(2)
    >>> x = jnp.array([[0.0, 2.0, 5.0, 3.0]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> print(layer.apply(params, state, x).output.round(3))
    [[-1.  1.  1. -1.]]
    """
    _arguments.whole("groups", groups, 1, owner="group_norm")
    _arguments.at_least("epsilon", epsilon, 0, owner="group_norm")

    def init(key, x):
        del key  # nothing is random
        if len(x.shape) < 2 or x.shape[-1] % groups:
            raise ValueError(
                f"group_norm takes inputs (batch, *places, channels) whose channels are a multiple "
                f"of its {groups} groups, but its input has shape {x.shape}."
            )
        ones, zeros = jnp.ones(x.shape[-1:], x.dtype), jnp.zeros(x.shape[-1:], x.dtype)
        return Variables(params={"scale": ones, "bias": zeros}, state={})

    def apply(
        params,
        state,
        x: Float[jax.Array | np.ndarray, "batch *places channels"],
        key=None,
        train=False,
    ):
        del key, train  # deterministic, and the same in training
        grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)  # all but the batch and the groups
        mean, var = (
            jnp.broadcast_to(f(grouped, axes, keepdims=True), grouped.shape).reshape(x.shape)
            for f in (jnp.mean, jnp.var)
        )
        return Applied(_normalised(params, x, mean, var, epsilon), state)

    def propagate(signal: Signal) -> Signal:
        if signal.shape[-1] % groups:
            raise unknown(
                f"group_norm has {groups} groups, but {signal.shape[-1]} channels; take a divisor.",
                signal,
            )
        return _standardized(signal, epsilon)

    return Layer(init, apply, propagate)


def _standardized(signal: Signal, epsilon: float) -> Signal:
    """The signal of an input whose units have lost their mean and been divided by their spread."""
    variance = 1 - signal.relative_mean**2  # over the mean square
    factor = 1 / (variance + epsilon * jnp.exp(-signal.log_q))
    return _divided(signal, factor, factor * variance, 0.0)


def _divided(signal: Signal, factor: jax.Array, q: jax.Array, mean: Scalar) -> Signal:
    """The signal of an input divided by itself: by the root of its mean square over `factor`."""
    gain = linear_gain(signal, factor)
    return signal.then(
        q=q,
        difference=factor * signal.decorrelation,
        mean=mean,
        gain=gain._replace(log_scale=gain.log_scale - signal.log_q),
        has_parameters=True,
    )


def _normalised(params, x, mean, var, epsilon) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon), scaled and shifted along the last axis."""
    mean, var, scale, bias = (
        jnp.broadcast_to(a, x.shape) for a in (mean, var, params["scale"], params["bias"])
    )
    return (x - mean) * jax.lax.rsqrt(var + epsilon) * scale + bias


@_arguments.checked
def dropout(rate: float) -> Layer:
    """Zeroes each number with this probability while training, and scales up the rest.

    Args:
      rate: probability of a zero, in [0, 1).

    Raises:
      ValueError: the rate is out of its range, or training was given no key.

    Reference: Srivastava et al., Dropout, JMLR 2014, sec. 4, scaled as in sec. 10.

    >>> layer = dropout(0.5)
    >>> x = jnp.ones(6)
    >>> y = layer.apply({}, {}, x, jax.random.key(0), train=True).output
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    _arguments.between("rate", rate, 0, 1, owner="dropout")
    keep = 1 - rate

    def init(key, x):
        del key, x  # there is nothing to draw
        return Variables(params={}, state={})

    def apply(params, state, x, key=None, train=False):
        del params
        if not train or rate == 0:
            return Applied(x, state)
        if key is None:
            raise ValueError("dropout is random in training, but got no key; give apply a key.")
        mask = jax.random.bernoulli(key, keep, x.shape).astype(x.dtype)
        return Applied(x * (mask / keep), state)

    def propagate(signal: Signal) -> Signal:
        if not signal.walk.train or rate == 0:
            return signal
        one = jnp.ones_like(signal.log_q)
        return signal.scaled(
            q=one / keep,
            difference=one / keep - signal.correlation,  # each input has a mask of its own
            mean=signal.relative_mean,
            gain=elementwise_gain(one / keep, one, one / keep, signal.correlation),
            gaussian=False,
            has_parameters=False,
            op="dropout",
        )

    return Layer(init, apply, propagate)
