"""Records: the runs of an experiment as one labelled dataset, written whole or not at all."""

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from vanishing import train

_VARIABLES = {  # name in the dataset: (where a Record holds it, long name, unit)
    "loss": (lambda r: r.loss, "loss of the step's batch, penalty included", "nat"),
    "accuracy": (lambda r: r.accuracy, "accuracy on the step's batch", "1"),
    "test_loss": (lambda r: r.test_loss, "loss of the test examples", "nat"),
    "test_accuracy": (lambda r: r.test_accuracy, "accuracy on the test examples", "1"),
    "cotangent_norm": (
        lambda r: r.norms.cotangent,
        "L2 norm of the gradient of the loss with respect to the layer's pre-activations, "
        "over the batch (the error signal)",
        "1",
    ),
    "kernel_gradient_norm": (
        lambda r: r.norms.kernel,
        "L2 norm of the gradient of the loss with respect to the layer's kernel",
        "1",
    ),
    "bias_gradient_norm": (
        lambda r: r.norms.bias,
        "L2 norm of the gradient of the loss with respect to the layer's bias",
        "1",
    ),
}
_LAYER = "1 is the layer next to the input, the last is the read-out; nan beyond a network's depth"


def labelled(record: train.Record, **axes: Sequence) -> xr.Dataset:
    """A dataset of what `train.fit` returned.

    Args:
      record: leaves of shape (runs, step) and (runs, step, layer).
      **axes: name and coordinates of the axes that the runs are the product of, the last varying
        fastest.

    Returns:
      A dataset with dimensions (*axes, step) and (*axes, step, layer), where layers count from 1.

    Raises:
      ValueError: the axes do not multiply up to the number of runs.
    """
    sizes = tuple(len(values) for values in axes.values())
    if np.prod(sizes) != len(record.loss):
        raise ValueError(f"axes {dict(zip(axes, sizes, strict=True))} for {len(record.loss)} runs.")

    def variable(value: np.ndarray, long_name: str, unit: str) -> xr.Variable:
        dims = (*axes, "step", "layer")[: len(sizes) + value.ndim - 1]
        attributes = {"long_name": long_name, "units": unit}
        return xr.Variable(dims, value.reshape(*sizes, *value.shape[1:]), attributes)

    variables = {name: variable(get(record), *rest) for name, (get, *rest) in _VARIABLES.items()}
    variables["outcome"] = xr.Variable(
        tuple(axes),
        train.outcome(record).reshape(sizes),
        {
            "long_name": "how the run ended",
            "flag_values": np.array(list(train.Outcome), np.int8),
            "flag_meanings": " ".join(o.name.lower() for o in train.Outcome),
        },
    )
    step = xr.Variable("step", record.step[0], {"long_name": "training step", "units": "1"})
    layer = xr.Variable(
        "layer",
        np.arange(1, record.norms.cotangent.shape[-1] + 1),
        {"long_name": _LAYER, "units": "1"},
    )
    coordinates = {name: (name, list(values), {"units": "1"}) for name, values in axes.items()}
    return xr.Dataset(variables, coords={**coordinates, "step": step, "layer": layer})


def provenance(config: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that say what made a dataset: its configuration, versions and devices."""
    packages = ("vanishing", "jax", "jaxlib", "optax", "numpy", "xarray")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {
        "config": json.dumps(config),
        "versions": json.dumps({"python": platform.python_version(), **versions}),
        "devices": devices(),
    }


def devices() -> str:
    """The devices that JAX computes on, such as "1 x cpu" or "8 x TPU v4"."""
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def save(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF 4, readable with `xarray.open_dataset`."""
    write(path, lambda draft: dataset.to_netcdf(draft, engine="h5netcdf"))


def load(path: Path) -> xr.Dataset:
    """Read a whole dataset into memory.

    Raises:
      ValueError: the file is no dataset of ours.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no dataset ({error}).") from None


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and rename it: a reader sees all of it or none of it.

    The temporary name keeps the suffix, by which writers choose the format, and is removed when the
    writer fails.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        writer(draft)
        draft.chmod(0o666 & ~_umask())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
