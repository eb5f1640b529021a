"""Datasets on disk: written completely or not at all, with the versions that made them."""

import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from vanishing._extras import needs

with needs("sweeps"):
    import xarray as xr

DRAFT = ".draft-"  # begins the name of a file that is being written


def provenance(config: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that record how a dataset was made: its configuration, versions and devices."""
    packages = ("vanishing", "jax", "jaxlib", "optax", "numpy", "xarray")
    versions = {package: version(package) for package in packages}
    return {
        "config": json.dumps(config),
        "versions": json.dumps({"python": platform.python_version(), **versions}),
        "devices": devices(),
    }


def version(package: str) -> str:
    """The version of an installed package, or "unknown" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def devices() -> str:
    """The devices that JAX computes on, such as "1 x cpu" or "8 x TPU v4"."""
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def save(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF 4, readable with `xarray.open_dataset`."""
    try:
        write(path, lambda draft: dataset.to_netcdf(draft, engine="h5netcdf"))
    except RuntimeError as error:  # as HDF5 reports a disk that is full when it closes a file
        raise OSError(f"{path} could not be written: {error}") from error


def load(path: Path) -> xr.Dataset:
    """Read a dataset into memory.

    Raises:
      ValueError: the file is damaged, or no dataset that `save` has written.
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
    handle, name = tempfile.mkstemp(prefix=DRAFT, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        writer(draft)
        draft.chmod(0o666 & ~_umask())
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # the new name must not reach the disk before the contents
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
