import numpy as np
import pytest
import xarray as xr

from experiments import backprop
from tests.commands import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(f"--out={out}", experiment="backprop")
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_every_intermediate_is_that_of_grad(run):
    dataset = run[1]
    assert dataset.difference.shape == (7, 5)  # z, a, f'(z), dC/da, delta, dC/dW, dC/db
    assert float(dataset.difference.max()) < 1e-13
    assert float(dataset.cost_difference) < 1e-13
    np.testing.assert_allclose(dataset.rms, dataset.rms_by_grad, rtol=1e-12)
    assert float(dataset.rms.min()) > 0


@pytest.mark.slow
def test_the_error_signal_shrinks_by_the_product_of_the_factors(run):
    dataset = run[1].isel(layer=slice(None, -1))
    delta = run[1].rms_by_grad.sel(quantity="delta")
    product = float((dataset.factor_of_weights * dataset.factor_of_slopes).prod("layer"))
    assert product == pytest.approx(float(delta[0] / delta[-1]), rel=1e-10)
    assert (dataset.factor_of_slopes <= 0.25).all()  # s' <= 1/4
    assert product < 0.01
    assert f"is left at the\nfirst layer: the product of the 4 factors, {product:.2e}." in run[0]


@pytest.mark.slow
def test_counted_operations_are_those_that_xla_reports(run):
    flops = run[1].flops
    counts = flops.sel(source="counted")
    for source in ("XLA, by hand", "XLA, jax.grad"):
        # the cost, which is not counted, is some 5 % of so small a network
        np.testing.assert_allclose(flops.sel(source=source), counts, rtol=0.1)
    forward, backward = counts.values
    assert 1 < backward / forward < 2
    size = run[1].bytes  # of which XLA keeps some in registers
    assert (size.sel(source="XLA, by hand") <= 1.02 * size.sel(source="counted")).all()
    assert (size.sel(source="XLA, by hand") >= 0.5 * size.sel(source="counted")).all()


@pytest.mark.slow
def test_the_table_has_every_intermediate_beside_that_of_grad(run):
    (row,) = [line.split() for line in run[0].splitlines() if line.startswith("delta      1 ")]
    assert float(row[2]) == pytest.approx(
        float(run[1].rms.sel(quantity="delta", layer=1)), rel=1e-5
    )
    assert row[2] == row[3]


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    process = command("--batch_size=5000", f"--out={tmp_path}", experiment="backprop")
    assert process.returncode == 1
    assert process.stderr.strip() == (
        "backprop: batch_size has 5000; digits has 1437 training examples."
    )


def test_a_network_that_explodes_is_said_to():
    config = backprop.Config(
        initializer="textbook", depth=60, width=64, activation="relu", precision="float32"
    )
    dataset = backprop.measure(config)
    assert not np.isfinite(dataset.rms.sel(quantity="delta")).all()
    text = backprop.verdict(dataset)
    assert "The error signal overflows: it is not finite at every layer." in text
    assert "nothing is left" not in text
    assert "By hand and by jax.grad differ by nan" not in text
