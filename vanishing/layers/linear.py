"""Linear layers: dense, convolution, and the reshaping that leads from one to the other."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vanishing import _arguments, initializers
from vanishing.layers.base import Applied, Layer, Variables, stateless
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import linear_gain, unknown

Initializer = jax.nn.initializers.Initializer


_NO_BIAS = initializers.zeros  # in theory


def require_initializers(owner: str, **given: Any) -> None:
    """Refuse what cannot draw weights, such as an initialiser's name.

    Args:
      owner: the layer that got them.
      **given: the initialisers by the names of their arguments.

    Raises:
      ValueError: with the value and what it must be.
    """
    for name, value in given.items():
        what = "an initialiser, as `initializers.he_normal()` is one"
        _arguments.function(name, value, what, owner=owner)


@_arguments.checked
def dense(
    features: int,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer | None = initializers.zeros,
) -> Layer:
    """The affine map of the last axis, `x @ kernel + bias`.

    Parameters are a dict spelt as Flax spells it: `kernel` of shape (fan_in, features) and `bias`
    of shape (features,), of the dtype of the input that `init` was given.

    Args:
      features: width of the output; at least 1.
      kernel_init: an initialiser of `jax.nn.initializers`' form, `(key, shape, dtype) -> array`.
        Theory follows those of `vanishing.initializers`, and any `initializers.ZeroMean`.
      bias_init: the same for the bias; None for none.

    Returns:
      A layer from (..., fan_in) to (..., features).

    Raises:
      ValueError: `features` is under 1; the input is not a vector of floating-point numbers, or
        its width is not that of the kernel.

    >>> layer = dense(3)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> layer.apply(params, state, jnp.ones((8, 2))).output.shape
    (8, 3)
    """
    _arguments.whole("features", features, 1, owner="dense")
    require_initializers("dense", kernel_init=kernel_init, bias_init=bias_init or _NO_BIAS)

    def init(key, x):
        if len(x.shape) < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"dense takes vectors of floating-point numbers, but its input is {x.dtype} of "
                f"shape {x.shape}; convert it, for instance with x.astype(jnp.float32)."
            )
        kernel_key, bias_key = jax.random.split(key)
        params = {
            "kernel": kernel_init(kernel_key, (x.shape[-1], features), x.dtype),
        }
        if bias_init is not None:
            params["bias"] = bias_init(bias_key, (features,), x.dtype)
        return Variables(params=params, state={})

    def apply(
        params, state, x: Float[jax.Array | np.ndarray, "*batch fan_in"], key=None, train=False
    ):
        del key, train  # deterministic, and the same in training
        kernel = params["kernel"]
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError(
                f"dense was initialised for inputs of width {kernel.shape[0]}, but x has shape "
                f"{x.shape}; initialise it with an input of the width that it will be given."
            )
        return Applied(_shifted(x @ kernel, params), state)

    def propagate(signal: Signal) -> Signal:
        *places, fan_in = signal.shape
        return _affine(signal, (fan_in, features), kernel_init, bias_init, (*places, features))

    return Layer(init, apply, propagate)


@_arguments.checked
def conv(
    features: int,
    kernel_size: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer | None = initializers.zeros,
) -> Layer:
    """A convolution over the axes between the batch and the channels.

    Parameters are spelt as Flax spells them: `kernel` of shape (*kernel_size, channels, features)
    and `bias` of shape (features,).

    Theory follows it as it does a dense layer: exactly with circular padding, and away from the
    border with any other, for a signal alike at all places. It leaves out the loss at a border of
    zeros, some 4 % of the mean square for 3 x 3 kernels on 28 x 28 places.

    Args:
      features: channels of the output; at least 1.
      kernel_size: extent of the kernel along each of those axes.
      strides: steps between places of the output, one for all axes or one for each.
      padding: "SAME", "VALID", "CIRCULAR" (the image as a torus), or (before, after) for each axis.
      kernel_init: an initialiser of `jax.nn.initializers`' form.
      bias_init: the same for the bias; None for none.

    Returns:
      A layer from (batch, *places, channels) to (batch, *places, features).

    Raises:
      ValueError: `features` is under 1, or kernel, strides and input differ in their axes.

    Reference: Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018, sec. 2.

    >>> layer = conv(8, (3, 3), strides=2)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 28, 28, 1)))
    >>> layer.apply(params, state, jnp.ones((4, 28, 28, 1))).output.shape
    (4, 14, 14, 8)
    """
    _arguments.whole("features", features, 1, owner="conv")
    require_initializers("conv", kernel_init=kernel_init, bias_init=bias_init or _NO_BIAS)
    kernel_size = _arguments.wholes("kernel_size", kernel_size, owner="conv")
    axes = len(kernel_size)
    steps = (strides,) * axes if isinstance(strides, int) else strides
    steps = _arguments.wholes("strides", steps, owner="conv")
    if not 1 <= axes <= 3 or len(steps) != axes or min(*kernel_size, *steps) < 1:
        raise ValueError(
            f"conv has a kernel of size {kernel_size} and strides {strides}; both take one number "
            "of at least 1 for each of 1 to 3 axes of places."
        )
    _require_padding(padding, axes)
    convolve = functools.partial(_convolve, steps=steps, padding=padding)

    def init(key, x):
        if len(x.shape) != axes + 2:
            raise ValueError(
                f"conv with a kernel of {axes} axes takes inputs (batch, {axes} axes of places, "
                f"channels), but its input has shape {x.shape}."
            )
        kernel_key, bias_key = jax.random.split(key)
        params = {
            "kernel": kernel_init(kernel_key, (*kernel_size, x.shape[-1], features), x.dtype),
        }
        if bias_init is not None:
            params["bias"] = bias_init(bias_key, (features,), x.dtype)
        return Variables(params=params, state={})

    def apply(params, state, x, key=None, train=False):
        del key, train  # deterministic, and the same in training
        return Applied(_shifted(convolve(x, params["kernel"]), params), state)

    def propagate(signal: Signal) -> Signal:
        if len(signal.shape) != axes + 1:
            raise unknown(f"conv of {axes} axes meets inputs of shape {signal.shape}.", signal)
        shape = (*kernel_size, signal.shape[-1], features)
        specs = (jax.ShapeDtypeStruct(s, signal.log_q.dtype) for s in ((1, *signal.shape), shape))
        output = jax.eval_shape(convolve, *specs)
        return _affine(signal, shape, kernel_init, bias_init, output.shape[1:])

    return Layer(init, apply, propagate)


def _shifted(x, params):
    """The sum of a signal and the bias of a layer, if it has one."""
    return x + jnp.broadcast_to(params["bias"], x.shape) if "bias" in params else x


def _require_padding(padding: Any, axes: int) -> None:
    pairs = () if isinstance(padding, str) else tuple(padding)
    named = padding in ("SAME", "VALID", "CIRCULAR") if isinstance(padding, str) else False
    if not named and not (len(pairs) == axes and all(len(pair) == 2 for pair in pairs)):
        raise ValueError(
            f'conv has padding {padding!r}; it must be "SAME", "VALID", "CIRCULAR" or (before, '
            f"after) for each of {axes} axes."
        )


def _convolve(x, kernel, steps: tuple[int, ...], padding: str | Sequence[tuple[int, int]]):
    """The convolution of images (batch, *places, channels) with a kernel, without the bias."""
    if padding == "CIRCULAR":
        around = [((size - 1) // 2, size // 2) for size in kernel.shape[:-2]]
        x = jnp.pad(x, [(0, 0), *around, (0, 0)], mode="wrap")
        padding = "VALID"
    axes = "DHW"[-len(steps) :]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(x, kernel, steps, padding, dimension_numbers=numbers)


def _affine(
    signal: Signal,
    kernel_shape: tuple[int, ...],
    kernel_init: Initializer,
    bias_init: Initializer | None,
    shape: tuple[int, ...],
) -> Signal:
    """The signal after a sum over fan_in units with weights of their own.

    Reference: Poole et al., Exponential expressivity in deep neural networks through transient
    chaos, NeurIPS 2016, eq. 3 and 5; Schoenholz et al., Deep information propagation, ICLR 2017,
    eq. 14 for the gradient.
    """
    try:
        kernel, bias = initializers.known(kernel_init), initializers.known(bias_init or _NO_BIAS)
    except ValueError as error:
        raise unknown(str(error), signal) from None
    sigma_w2 = math.prod(kernel_shape[:-1]) * kernel.mean_square(kernel_shape)
    sigma_b2 = bias.mean_square((kernel_shape[-1],))
    biased = not (isinstance(sigma_b2, float) and sigma_b2 == 0)
    # relative to the larger of signal and bias
    unit = jnp.maximum(signal.log_q, 0.0) if biased else signal.log_q
    from_signal = sigma_w2 * (jnp.exp(signal.log_q - unit) if biased else 1.0)
    return signal.scaled(
        q=from_signal + sigma_b2 * jnp.exp(-unit) if biased else from_signal,
        difference=from_signal * signal.decorrelation,  # both inputs get the same bias
        mean=0.0,
        log_unit=unit,
        # the length of a Gaussian vector: Hanin, Which neural net architectures give rise to
        # exploding and vanishing gradients, NeurIPS 2018
        gain=linear_gain(signal, sigma_w2, 0.0 if kernel.orthogonal else 2 / signal.shape[-1]),
        shape=shape,
        gaussian=True,
        fresh=True,
        has_parameters=True,
    )


def flatten() -> Layer:
    """Joins all axes but the first into one: (batch, ...) to (batch, features)."""
    return stateless(
        lambda x: x.reshape(x.shape[0], math.prod(x.shape[1:])),
        lambda signal: dataclasses.replace(signal, shape=(signal.size,)),
    )
