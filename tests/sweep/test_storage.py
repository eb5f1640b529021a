import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import xarray as xr

from tests.train.test_labelled import recognisable_history
from vanishing import train
from vanishing.sweep import grid, storage

ROOT = Path(__file__).parents[2]


def test_a_dataset_comes_back_whole_and_opens_with_xarray_alone(tmp_path):
    history = recognisable_history()
    history.loss[0, 1:] = np.inf, np.nan, 1e-30
    attributes = storage.provenance({"depths": [2, 3], "data": "digits"})
    axes = {"activation": ["tanh"], "seed": range(6)}
    dataset = grid.spread(train.to_dataset(history), axes).assign_attrs(attributes)
    storage.save(dataset, tmp_path / "data.nc")
    xr.testing.assert_identical(storage.load(tmp_path / "data.nc"), dataset)
    with xr.open_dataset(tmp_path / "data.nc") as file:
        xr.testing.assert_equal(file.load(), dataset)
        assert json.loads(file.attrs["config"]) == {"depths": [2, 3], "data": "digits"}
        assert json.loads(file.attrs["versions"])["jax"] == jax.__version__
        assert file.attrs["devices"] == f"{len(jax.devices())} x {jax.devices()[0].device_kind}"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "data.nc"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written: No space left on device: .*data\.nc"):
        storage.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file_nor_takes_a_draft_for_one(tmp_path, monkeypatch):
    path = tmp_path / "0-2.nc"
    path.write_text("old")
    sync, seen = os.fsync, []

    def look(handle):
        seen.append((path.read_text(), sorted(file.suffix for file in tmp_path.iterdir())))
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    storage.write(path, b"new")
    assert seen == [("old", ["", ".nc"])]
    assert path.read_text() == "new"


def test_a_file_that_another_process_holds_is_read_and_replaced(tmp_path):
    """HDF5 locks what it opens until it is closed, and then neither reads nor writes it."""
    path, dataset = tmp_path / "data.nc", xr.Dataset({"y": ("x", [1.0, 2.0])})
    storage.save(dataset, path)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does in a process that writes
        with pytest.raises(OSError, match="lock"):
            h5py.File(path, "r")
        xr.testing.assert_identical(storage.load(path), dataset)
        storage.save(dataset + 1, path)
    xr.testing.assert_identical(storage.load(path), dataset + 1)


def test_a_limit_on_the_size_of_files_ends_in_one_line(tmp_path):
    """HDF5 would write on when it closes the file, and at exit."""
    program = f"""
import resource, sys
from pathlib import Path
import numpy as np, xarray as xr
from vanishing.sweep import storage
dataset = xr.Dataset({{"y": ("x", np.random.default_rng(0).normal(size=10_000))}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    storage.save(dataset, Path({str(tmp_path / "data.nc")!r}))
except OSError as error:
    sys.exit(str(error))
"""
    python = [sys.executable, "-c", program]
    process = subprocess.run(python, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert "it could not be written: File too large" in line
    assert "data.nc" in line
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "data.nc"
    path.write_bytes(b"not netCDF")
    with pytest.raises(ValueError, match=r"data\.nc is damaged or no dataset") as caught:
        storage.load(path)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_has_no_known_version():
    assert storage.version("jax") == jax.__version__
    assert storage.version("no-such-package") == "unknown"
    assert "vanishing" in json.loads(storage.provenance({})["versions"])
