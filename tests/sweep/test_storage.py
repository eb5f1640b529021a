import json

import jax
import numpy as np
import pytest
import xarray as xr

from tests.train.test_labelled import recognisable_history
from vanishing import train
from vanishing.sweep import grid, storage


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


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "data.nc"
    path.write_text("old")

    def half(draft):
        draft.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.write(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")

    def slowly(draft):
        draft.write_text("n")
        assert path.read_text() == "old"
        draft.write_text("new")

    storage.write(path, slowly)
    assert path.read_text() == "new"


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
