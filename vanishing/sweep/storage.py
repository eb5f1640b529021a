"""Datasets on disk: written completely or not at all, with the versions that made them.

HDF5 never meets the disk: a dataset is made in memory and then written, so that a full disk is an
error of Python's and nothing is left open; and it is read into memory first, so that no file is
locked and a damaged one is told by its checksum before HDF5 reads it.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
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
    """Write a dataset as netCDF 4, readable with `xarray.load_dataset`."""
    write(path, to_bytes(dataset))


def load(path: Path) -> xr.Dataset:
    """Read a dataset into memory.

    Raises:
      ValueError: the file is damaged, or no dataset that `save` has written.
      OSError: it cannot be read.
    """
    return from_bytes(path.read_bytes(), path)


def to_bytes(dataset: xr.Dataset) -> bytes:
    """A dataset as the contents of a netCDF 4 file."""
    return bytes(dataset.to_netcdf(engine="h5netcdf"))


def from_bytes(contents: bytes, path: Path) -> xr.Dataset:
    """The dataset that a file holds.

    Raises:
      ValueError: with the path; it holds none.
    """
    try:
        return xr.load_dataset(io.BytesIO(contents), engine="h5netcdf")
    except Exception as error:  # HDF5 has errors of many types for files of others
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no dataset ({reason}).") from None


def checksum(contents: bytes, *belongs_to: str) -> str:
    """SHA-256 of a file's contents, and of what it belongs to, if anything is given."""
    digest = hashlib.sha256(contents)
    for owner in belongs_to:
        digest.update(b"\0" + owner.encode())
    return digest.hexdigest()


def write(path: Path, contents: bytes | str) -> None:
    """Write a file under a temporary name and rename it: a reader sees all of it or none of it.

    The temporary name has no suffix, so that no listing of files of a kind meets it, and is removed
    if the disk is full.

    Raises:
      OSError: with the path; the old file, if there was one, is as it was.
    """
    draft = None
    try:
        handle, draft = tempfile.mkstemp(prefix=DRAFT, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(contents if isinstance(contents, bytes) else contents.encode())
            file.flush()
            os.fsync(handle)  # the new name must not reach the disk before the contents
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, path)
    except OSError as error:
        raise OSError(
            error.errno, f"it could not be written: {error.strerror}", str(path)
        ) from error
    finally:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file or a folder at once: no reader sees a part of it."""
    if path.exists():
        draft = path.with_name(DRAFT + path.name)
        path.rename(draft)
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
