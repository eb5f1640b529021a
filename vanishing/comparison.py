"""Comparison of what theory predicts with what the probe measured, row by row."""

import math
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vanishing import _arguments
from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.layers import Layer, Variables, output_spec
from vanishing.layers.base import NETWORK, require_layer
from vanishing.probing import Trace, probe
from vanishing.theory import Prediction

with needs("sweeps"):
    import xarray as xr


@_arguments.checked(network=None)
def measure(
    network: Layer,
    variables: Variables | tuple[PyTree, PyTree],
    x: Float[Array, "batch ..."],
    key: PRNGKeyArray,
    *,
    loss: Callable[[Array], Float[Array, ""]] | None = None,
    summaries: Collection[str] | str = ("rms", "similarity"),
) -> Trace:
    """Trace of one network under a loss that theory covers.

    Unless you give one, the loss is a linear function of the output with random weights for every
    input, so that its gradient knows nothing of the network. Runs under `jax.jit`, and under
    `jax.vmap` over networks.

    Args:
      network: a layer, read in training mode.
      variables: what its `init` drew, (params, state).
      x: a batch of inputs.
      key: of the loss's weights, and of layers that are random in training.
      loss: of the network's output, in place of the random one.
      summaries: what is measured at each row, as `vanishing.probe` takes it.

    Returns:
      The trace.
    """
    require_layer("network", network, NETWORK)
    if not isinstance(variables, tuple) or len(variables) != 2:
        what = "the pair (params, state) that the network's init returned"
        raise ValueError(f"variables is {_arguments.described(variables)}; it must be {what}.")
    variables = Variables(*variables)
    loss_key, noise_key = jax.random.split(key)
    spec = output_spec(network, variables, x)
    weights = jax.random.normal(loss_key, spec.shape, spec.dtype)
    of_output = loss if loss is not None else lambda output: jnp.sum(output * weights)

    def of_params(params):
        return of_output(network.apply(params, variables.state, x, noise_key, True).output)

    return probe(of_params, summaries=summaries)(variables.params).trace


@_arguments.checked(network=None)
def measure_drawn(
    network: Layer,
    x: Float[Array, "batch ..."],
    key: PRNGKeyArray,
    networks: int = 32,
    **options: Any,
) -> Trace:
    """Traces of several networks that are drawn anew, each as by `measure`.

    Args:
      network: a layer.
      x: a batch of inputs, the same for all.
      key: of the weights and of the losses.
      networks: how many.
      **options: of `measure`.

    Returns:
      A stack of traces, with an axis of networks in front; `compare` takes it.

    >>> from vanishing import layers, theory
    >>> network = layers.serial(layers.dense(64), layers.dense(8))
    >>> x = jnp.ones((2, 32))
    >>> traces = measure_drawn(network, x, jax.random.key(0), networks=200)
    >>> compared = compare(theory.predict(network, x), traces)
    >>> f"{float(compared.q_measured.mean('batch_0')[-1]):.1f}"  # kernels of LeCun: 1 of ones
    '1.0'
    """

    def one(key):
        init_key, measure_key = jax.random.split(key)
        return measure(network, network.init(init_key, x), x, measure_key, **options)

    require_layer("network", network, NETWORK)
    return jax.jit(jax.vmap(one))(jax.random.split(key, networks))


@_arguments.checked(prediction=None, trace=None)
def compare(prediction: Prediction, trace: Trace) -> xr.Dataset:
    """Prediction and measurement on one axis.

    The rows are those that both have, in forward order; the attributes `only_predicted` and
    `only_measured`, which a dataset prints at its end, name the others. A layer without parameters
    has a name that both know if `layers.serial` gave it one. Gradients are taken relative to the
    last row, as theory knows no loss.

    Args:
      prediction: of a network.
      trace: of the same network, or a stack of such, whose axes stay in front.

    Returns:
      A dataset with dimension `row`: `q`, `correlation` and `log_backward` (the log mean square of
      dL/dh), each `_predicted` and `_measured`; and `log_backward_std`, how far the measured
      logarithm strays from one network of this width to another, for a batch of one input: a batch
      of unlike inputs strays less. The measured correlation is nan unless the probe was asked for
      the summary "similarity".

    Raises:
      ValueError: they have no row in common, or are something else, or stand in the other order.
    """
    both = "of compare(prediction, trace)"
    _arguments.instance("prediction", prediction, Prediction, f"a Prediction, the first {both}")
    _arguments.instance("trace", trace, Trace, f"a Trace, the second {both}")
    columns = [name for name in prediction.names if name in set(trace.names)]
    unmatched = {
        "only_predicted": [name for name in prediction.names if name not in columns],
        "only_measured": [name for name in trace.names if name not in columns],
    }
    if not columns:
        raise ValueError(
            f"the prediction has the rows {', '.join(prediction.names[:3])}, ... and the trace "
            f"{', '.join(trace.names[:3])}, ...; they must be of the same network."
        )
    predicted_rows = [prediction.names.index(name) for name in columns]
    measured_rows = [trace.names.index(name) for name in columns]

    def predicted(values):
        return "row", np.asarray(values, np.float64)[predicted_rows]

    def measured(values):
        values = np.asarray(values, np.float64)
        return [f"batch_{i}" for i in range(values.ndim - 1)] + ["row"], values[..., measured_rows]

    dataset = xr.Dataset(
        {
            "q_predicted": predicted(prediction.q),
            "q_measured": measured(np.asarray(trace.forward.rms, np.float64) ** 2),
            "correlation_predicted": predicted(prediction.correlation),
            "correlation_measured": measured(trace.forward.similarity),
            "log_backward_predicted": predicted(prediction.log_backward),
            "log_backward_measured": measured(_log_square(trace.backward.rms)),
            "log_backward_std": predicted(np.sqrt(np.asarray(prediction.log_variance))),
        },
        {"row": columns},
        {name: ", ".join(rows) for name, rows in unmatched.items()},
    )
    for name in ("log_backward_predicted", "log_backward_measured"):
        dataset[name] = dataset[name] - dataset[name].isel(row=-1)
    return dataset


def _log_square(rms) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 2 * np.log(np.asarray(rms, np.float64))


class Slope(NamedTuple):
    """Growth of the log mean square of the gradient from one row to the row before it."""

    predicted: float
    measured: float  # mean over networks
    error: float  # standard error of that mean

    @property
    def is_finite(self) -> bool:
        """Whether there are numbers to compare: where a signal overflows there are none."""
        return math.isfinite(self.predicted) and math.isfinite(self.measured)

    @property
    def agrees(self) -> bool:
        """Whether the slopes are finite and differ by at most 0.02, or 5 % of the predicted one."""
        return self.is_finite and abs(self.measured - self.predicted) <= max(
            0.02, 0.05 * abs(self.predicted)
        )

    @property
    def verdict(self) -> str:
        """The agreement in words; within two standard errors it is left open."""
        if not self.is_finite:
            return "not finite"
        if self.agrees:
            return "agrees"
        off = abs(self.measured - self.predicted)
        return "too few seeds" if off <= 2 * self.error else "DIFFERS"


@_arguments.checked
def slope(comparison: xr.Dataset, rows: str, skip: int = 0) -> Slope:
    """Fit straight lines through the log mean-square gradients, predicted and measured.

    Args:
      comparison: what `compare` returned.
      rows: a regular expression that the whole of a row's name must match, such as
        r"hidden\\[\\d+\\]\\.dense".
      skip: how many of these to leave out at each end, where the signal has yet to come to its
        fixed point and the gradient still knows the loss.

    Raises:
      ValueError: fewer than two rows are left.
    """
    names = [name for name in comparison["row"].values.tolist() if re.fullmatch(rows, name)]
    names = names[skip : len(names) - skip]
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} rows match {rows!r} once {skip} are left out at each end; "
            "a slope takes at least 2."
        )
    selection = comparison.sel(row=names)
    index = np.arange(len(names))
    predicted = -np.polyfit(index, selection["log_backward_predicted"].values, 1)[0]
    lines = selection["log_backward_measured"].values.reshape(-1, len(names))
    measured = -np.polyfit(index, lines.T, 1)[0]
    return Slope(
        float(predicted),
        float(measured.mean()),
        float(measured.std(ddof=1) / len(measured) ** 0.5) if len(measured) > 1 else float("nan"),
    )
