"""A check of a layer's `propagate` against the layer itself, in networks that are drawn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vanishing import _arguments, _text
from vanishing._types import Scalar
from vanishing.initializers import scaled
from vanishing.layers import Layer, dense, propagate
from vanishing.meanfield import signal
from vanishing.meanfield.signals import output_gradient

QUANTITIES = ("q", "mean", "correlation", "gain")
_BATCH = 8  # inputs, any two of which are equally alike
_NEAR = 0.05  # that finite width may cost, of 1 or of the number itself, besides 5 standard errors


class CheckedLayer(NamedTuple):
    """Predicted and measured signal after a layer, and its gain on the way back.

    It prints as a table: the mean square and the mean of a unit, the correlation of two inputs, and
    the factor of the summed mean-square gradient from the layer's output to its input.
    """

    predicted: Float[np.ndarray, "4"]  # in the order of `QUANTITIES`
    measured: Float[np.ndarray, "4"]  # mean over networks
    error: Float[np.ndarray, "4"]  # standard error of that mean

    @property
    def off(self) -> tuple[str, ...]:
        """The quantities that differ by over 5 % and over five standard errors."""
        allowed = _NEAR * np.maximum(np.abs(self.predicted), self._floors()) + 5 * self.error
        differs = ~(np.abs(self.measured - self.predicted) <= allowed)
        return tuple(name for name, d in zip(QUANTITIES, differs, strict=True) if d)

    @property
    def agrees(self) -> bool:
        """Whether no quantity is off."""
        return not self.off

    def _floors(self) -> np.ndarray:
        return np.array([0.0, np.sqrt(np.abs(self.predicted[0])), 1.0, 0.0])

    def __str__(self) -> str:
        rows = [
            (name, *map(_text.number, values), "OFF" if name in self.off else "")
            for name, *values in zip(QUANTITIES, *self, strict=True)
        ]
        return _text.table(("", "predicted", "measured", "error", ""), rows, texts=1)


@_arguments.checked
def check_layer(
    layer: Layer,
    *,
    width: int = 256,
    q: Scalar = 1.0,
    correlation: float = 0.5,
    networks: int = 32,
    key: PRNGKeyArray | None = None,
) -> CheckedLayer:
    """A layer's `propagate` beside what the layer does in networks that are drawn.

    The layer stands behind a wide dense layer, whose output is normal, and before a loss whose
    gradient knows nothing of it.

    Args:
      layer: from (batch, width) to (batch, any width), with a `propagate`.
      width: units that it reads.
      q: mean square of each.
      correlation: of two inputs, at least 0.
      networks: how many to draw.
      key: of the draws.

    Returns:
      Prediction and measurement; `assert check_layer(layer).agrees` in a test of the layer.

    Raises:
      ValueError: theory does not follow the layer, or a number is out of range.

    >>> from vanishing.layers import activation
    >>> check_layer(activation("relu")).agrees
    True
    """
    _arguments.at_least("correlation", correlation, 0)
    read = dense(width, *scaled(1.0))
    start = signal(q, correlation, shape=(width,), batch=_BATCH)
    after = propagate(layer, propagate(read, start).restarted())
    gain = jnp.exp(after.gain.log_of(output_gradient(after, 0.0)))
    predicted = jnp.stack([after.q, after.mean, after.correlation, gain])

    def measure(key: PRNGKeyArray) -> Float[Array, "4"]:
        keys = jax.random.split(key, 6)
        common = jax.random.normal(keys[0], (1, width))
        own = jax.random.normal(keys[1], (_BATCH, width))
        x = jnp.sqrt(q) * (jnp.sqrt(correlation) * common + jnp.sqrt(1 - correlation) * own)
        params, state = read.init(keys[2], x)
        h = read.apply(params, state, x).output
        params, state = layer.init(keys[3], h)
        y, back = jax.vjp(lambda h: layer.apply(params, state, h, keys[4], True).output, h)
        error = jax.random.normal(keys[5], y.shape)
        square, total = jnp.mean(y**2), jnp.sum(jnp.sum(y, axis=0) ** 2)
        squares = jnp.sum(y**2)
        alike = (total - squares) / (_BATCH - 1) / jnp.where(squares > 0, squares, 1.0)
        gain = jnp.sum(back(error)[0] ** 2) / jnp.sum(error**2)
        return jnp.stack([square, jnp.mean(y), alike, gain])

    keys = jax.random.split(jax.random.key(0) if key is None else key, networks)
    measured = np.asarray(jax.jit(lambda keys: jax.lax.map(measure, keys))(keys), np.float64)
    return CheckedLayer(
        np.asarray(predicted, np.float64),
        measured.mean(axis=0),
        measured.std(axis=0, ddof=1) / networks**0.5 if networks > 1 else np.zeros(4),
    )
