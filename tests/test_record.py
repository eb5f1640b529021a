import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vanishing import record, train
from vanishing.probe import probe


def made_record(runs=6, steps=4, layers=3):
    def numbers(*shape, start=0):
        return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)

    step = np.tile(np.arange(0, 10 * steps, 10), (runs, 1))

    def loss(params):
        h = jnp.ones((2, 2))
        for layer in params:
            h = jnp.tanh(h @ layer["kernel"] + layer["bias"])
        return jnp.sum(h)

    layer = {"kernel": jnp.eye(2), "bias": jnp.zeros((1, 2))}
    trace = probe(loss)([layer] * layers).trace  # its numbers are replaced by ones to recognise
    trace = jax.tree.map(lambda leaf: numbers(runs, steps, *leaf.shape, start=1000), trace)
    return train.Record(step, *(numbers(runs, steps, start=100 * i) for i in range(4)), trace)


def test_labelled_puts_every_run_in_its_place():
    made = made_record()
    axes = {"learning_rate": [0.1, 0.2], "seed": range(3)}
    dataset = record.spread(record.labelled(made), axes)
    assert dataset.cotangent_rms.dims == ("learning_rate", "seed", "step", "layer")
    for i in range(6):
        run = dataset.sel(learning_rate=[0.1, 0.2][i // 3], seed=i % 3)
        np.testing.assert_array_equal(run.test_loss, made.test_loss[i])
        products = [
            row for row, site in enumerate(made.trace.sites) if site.kind == "matrix product"
        ]
        np.testing.assert_array_equal(run.cotangent_rms, made.trace.backward.rms[i][:, products])
        after = [row + 1 for row in products]
        np.testing.assert_array_equal(run.output_rms, made.trace.forward.rms[i][:, after])
        kernels = [made.trace.layout.param_names.index(f"[{n}].kernel") for n in range(3)]
        gradient = made.trace.params.gradient[i][:, kernels]
        np.testing.assert_array_equal(run.kernel_gradient_norm, gradient)
    assert dataset.step.values.tolist() == [0, 10, 20, 30]
    assert dataset.layer.values.tolist() == [1, 2, 3]
    assert all("long_name" in variable.attrs for variable in dataset.data_vars.values())
    assert all("units" in dataset[name].attrs for name in dataset.data_vars if name != "outcome")


def test_labelled_says_which_runs_diverged():
    made = made_record()
    made.loss[4, 2] = np.nan
    dataset = record.labelled(made)
    assert dataset.outcome.values.tolist() == [0, 0, 0, 0, 1, 0]
    assert dataset.outcome.attrs["flag_meanings"].split()[1] == "diverged"


def test_spread_keeps_what_has_no_points_and_needs_no_axes():
    made = xr.Dataset(
        {"y": (("layer", "point"), [[1.0], [2.0]]), "z": 3.0}, {"w": ("point", [4.0])}
    )
    bare = record.spread(made, {})
    assert bare.y.values.tolist() == [1.0, 2.0]
    assert "w" in bare.coords
    assert record.spread(made, {"seed": [7]}).y.sel(seed=7, layer=1) == 2.0
    assert float(bare.z) == 3.0


def test_spread_refuses_axes_that_do_not_fit():
    with pytest.raises(ValueError, match="5} for 6 points"):
        record.spread(record.labelled(made_record()), {"seed": range(5)})


def test_a_dataset_comes_back_whole_and_opens_with_xarray_alone(tmp_path):
    made = made_record()
    made.loss[0, 1:] = np.inf, np.nan, 1e-30
    attributes = record.provenance({"depths": [2, 3], "data": "digits"})
    axes = {"activation": ["tanh"], "seed": range(6)}
    dataset = record.spread(record.labelled(made), axes).assign_attrs(attributes)
    record.save(dataset, tmp_path / "data.nc")
    xr.testing.assert_identical(record.load(tmp_path / "data.nc"), dataset)
    with xr.open_dataset(tmp_path / "data.nc") as opened:
        xr.testing.assert_equal(opened.load(), dataset)
        assert json.loads(opened.attrs["config"]) == {"depths": [2, 3], "data": "digits"}
        assert json.loads(opened.attrs["versions"])["jax"] == jax.__version__
        assert opened.attrs["devices"] == f"{len(jax.devices())} x {jax.devices()[0].device_kind}"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "data.nc"
    path.write_text("old")

    def half(draft):
        draft.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        record.write(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")

    def slowly(draft):
        draft.write_text("n")
        assert path.read_text() == "old"
        draft.write_text("new")

    record.write(path, slowly)
    assert path.read_text() == "new"


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "data.nc"
    path.write_bytes(b"not netCDF")
    with pytest.raises(ValueError, match=r"data\.nc is damaged or no dataset") as caught:
        record.load(path)
    assert "\n" not in str(caught.value)
