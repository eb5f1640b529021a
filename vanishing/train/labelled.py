"""Labelled datasets of training runs: curves by step, and profiles by step and layer."""

import numpy as np

from vanishing import _arguments
from vanishing._extras import needs
from vanishing.probing import SiteKind, Trace
from vanishing.train.history import History, Outcome, outcome

with needs("sweeps"):
    import xarray as xr

_CURVES = {  # name in the dataset: (long name, unit)
    "loss": ("loss of the step's batch, penalty included", "1"),
    "accuracy": ("accuracy on the step's batch", "1"),
    "test_loss": ("loss of the test examples", "1"),
    "test_accuracy": ("accuracy on the test examples", "1"),
}
_PROFILES = {
    "signal_rms": "RMS of the layer's pre-activations",
    "cotangent_rms": "RMS of the gradient of the loss with respect to the layer's pre-activations "
    "(the error signal)",
    "output_rms": "RMS of what the nonlinearity makes of the layer's pre-activations",
    "saturated": "share of pre-activations where the nonlinearity's slope is under 1 % of its most",
    "kernel_norm": "L2 norm of the layer's kernel",
    "kernel_gradient_norm": "L2 norm of the gradient with respect to the layer's kernel",
    "bias_gradient_norm": "L2 norm of the gradient with respect to the layer's bias",
}
_LAYER = "1 is the layer next to the input, the last is the read-out; nan beyond a network's depth"


@_arguments.checked
def profiles(trace: Trace) -> dict[str, np.ndarray]:
    """The quantities of each layer (each matrix product) of a trace, in forward order.

    Args:
      trace: a trace as NumPy arrays, with any axes in front.

    Returns:
      Arrays with a last axis of layers, nan where a layer lacks the quantity.
    """
    _arguments.instance("trace", trace, Trace, "a Trace of `vanishing.probe`")
    rows, names = trace.sites, trace.names
    places = {path: leaf for leaf, path in enumerate(trace.layout.param_names)}
    products = [row for row, site in enumerate(rows) if site.kind == SiteKind.MATMUL]
    after = [
        row + 1 if row + 1 < len(rows) and rows[row + 1].kind == SiteKind.NONLINEARITY else None
        for row in products
    ]

    def columns(values, indices) -> np.ndarray:
        absent = np.full(values.shape[:-1], np.nan)
        return np.stack([absent if i is None else values[..., i] for i in indices], axis=-1)

    def leaf(name: str) -> list[int | None]:
        return [places.get(f"{names[row]}.{name}") for row in products]

    return {
        "signal_rms": columns(trace.forward.rms, products),
        "cotangent_rms": columns(trace.backward.rms, products),
        "output_rms": columns(trace.forward.rms, after),
        "saturated": columns(trace.forward.saturated, after),
        "kernel_norm": columns(trace.params.weight, leaf("kernel")),
        "kernel_gradient_norm": columns(trace.params.gradient, leaf("kernel")),
        "bias_gradient_norm": columns(trace.params.gradient, leaf("bias")),
    }


@_arguments.checked
def trunk(trace: Trace) -> dict[str, np.ndarray]:
    """The RMS of signal and cotangent at the ends of a network's blocks, in forward order.

    The first is the input of the first repeated block and the last the network's output; between
    them there is the output of each block, whatever layers it consists of.

    Args:
      trace: a trace as NumPy arrays, with any axes in front.

    Returns:
      Arrays with a last axis of blocks.
    """
    _arguments.instance("trace", trace, Trace, "a Trace of `vanishing.probe`")
    block = [instance.indices[:1] for instance in trace.layout.instances]
    ends = [row for row in range(len(block)) if block[row : row + 1] != block[row + 1 : row + 2]]
    return {
        "trunk_rms": np.asarray(trace.forward.rms)[..., ends],
        "trunk_cotangent_rms": np.asarray(trace.backward.rms)[..., ends],
    }


@_arguments.checked
def to_dataset(history: History) -> xr.Dataset:
    """A dataset of the runs of `train.fit`.

    Args:
      history: leaves of shape (runs, step), and (runs, step, row) in the trace.

    Returns:
      A dataset with dimensions (point, step) and (point, step, layer), where the points are the
      runs and layers count from 1; `spread` gives the runs axes of their own. Runs that were not
      probed have no layers.
    """

    _arguments.instance("history", history, History, "a History of `train.fit`")

    def variable(value: np.ndarray, long_name: str, unit: str) -> xr.Variable:
        dims = ("point", "step", "layer")[: value.ndim]
        return xr.Variable(dims, value, {"long_name": long_name, "units": unit})

    of_layers = {} if history.trace is None else profiles(history.trace)
    variables = {name: variable(getattr(history, name), *rest) for name, rest in _CURVES.items()}
    variables |= {name: variable(of_layers[name], _PROFILES[name], "1") for name in of_layers}
    variables["outcome"] = xr.Variable(
        "point",
        outcome(history),
        {
            "long_name": "how the run ended",
            "flag_values": np.array(list(Outcome), np.int8),
            "flag_meanings": " ".join(o.name.lower() for o in Outcome),
        },
    )
    step = xr.Variable("step", history.step[0], {"long_name": "training step", "units": "1"})
    dataset = xr.Dataset(variables, coords={"step": step})
    if not of_layers:
        return dataset
    numbers = np.arange(1, dataset.sizes["layer"] + 1)
    return dataset.assign_coords(layer=("layer", numbers, {"long_name": _LAYER, "units": "1"}))
