import numpy as np
import pytest
import xarray as xr

from experiments import depth
from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--depths=1,4", "--steps=400", "--record_every=40", "--learning_rates=3"),
        *("--seeds=8", f"--out={out}"),
        experiment="depth",
        optimized=True,
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_the_earlier_a_hidden_layer_is_the_more_slowly_it_learns_at_the_start(run):
    """Nielsen 2015, chapter 5: a factor of about 4.9 a layer; his digits are not ours."""
    start = depth.speeds(run[1]).sel(depth=4, layer=slice(1, 4)).isel(step=0)
    assert (start.diff("layer") > 0).all(), "in every seed"
    ratio = float((start.sel(layer=4) / start.sel(layer=1)).median("seed")) ** (1 / 3)
    assert 4 < ratio < 6


@pytest.mark.slow
def test_the_speeds_at_the_start_are_of_the_published_size(run):
    """|delta| of 4 hidden layers, one draw on MNIST: each within a factor 2.5 of our median."""
    published = np.array([0.0029752663545, 0.0170766654, 0.0695392416, 0.2851389354])
    speeds = depth.speeds(run[1]).sel(depth=4, layer=slice(1, 4)).isel(step=0).median("seed")
    ratio = speeds.values / published
    assert (ratio > 1 / 2.5).all(), ratio
    assert (ratio < 2.5).all(), ratio


@pytest.mark.slow
def test_more_layers_are_no_better(run):
    accuracy = families.summary(run[1]).accuracy
    assert float(accuracy.sel(depth=1)) > 0.9
    assert float(accuracy.sel(depth=4)) < float(accuracy.sel(depth=1)) + 0.01


@pytest.mark.slow
def test_the_verdict_has_the_speeds(run):
    (row,) = [line for line in run[0].splitlines() if line.startswith("4      0.00")]
    assert float(row.split()[5]) > 50  # the last hidden layer over the first
