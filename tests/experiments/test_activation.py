import re

import numpy as np
import pytest
import xarray as xr

from experiments import activation
from experiments.common import families
from tests.commands import command
from vanishing import train

SIGMOID = ("--activations=sigmoid", "--depths=2,10", "--steps=200", "--seeds=2")
RELU = ("--activations=relu", "--depths=10", "--steps=200", "--seeds=2")


def results(out, *flags):
    """The experiment at its smallest real size, through its command line."""
    process = command(*flags, "--learning_rates=0.01,0.1", f"--out={out}")
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load(), out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return results(tmp_path_factory.mktemp("run"), *SIGMOID)


def test_a_deep_sigmoid_network_loses_its_error_signal_and_stays_at_chance(run):
    table = families.summary(run[1])
    deep = table.sel(activation="sigmoid", depth=10)
    # sigmoid with sigma_w = 1 at width 64: at most 1/4 a layer, so under 4^-9 = 4e-6 from 10 to 1
    assert -6.5 < float(deep.log10_share) < -9 * np.log10(4)
    assert float(deep.accuracy) < 0.2
    assert float(table.sel(activation="sigmoid", depth=2).accuracy) > 0.9


@pytest.mark.slow
def test_a_deep_relu_network_keeps_its_error_signal_and_learns(tmp_path):
    stdout, dataset, _ = results(tmp_path, *RELU)
    deep = families.summary(dataset).sel(activation="relu", depth=10)
    assert abs(float(deep.log10_share)) < 0.5
    assert float(deep.accuracy) > 0.9
    assert dataset.initializer.sel(activation="relu") == "he_normal"
    assert verdicts(stdout)["relu", "10"].endswith("learns")


def verdicts(stdout):
    """The lines of the table by activation and depth."""
    lines = [line for line in stdout.splitlines() if "_normal" in line]
    return {tuple(line.split()[:3:2]): line for line in lines}


def test_weight_gradients_look_flatter_than_the_error_signal_that_vanishes(run):
    start = run[1].sel(activation="sigmoid", depth=10).isel(step=0, learning_rate=0).mean("seed")
    ends = start.sel(layer=[1, 10])
    signal = ends.cotangent_rms[0] / ends.cotangent_rms[1]
    weights = ends.kernel_gradient_norm[0] / ends.kernel_gradient_norm[1]
    assert signal < 1e-5
    assert weights > signal


def test_the_verdict_says_it(run):
    stdout = run[0]
    rows = verdicts(stdout)
    assert rows["sigmoid", "10"].endswith("does not learn")
    assert rows["sigmoid", "2"].endswith("learns")
    assert "chance is 13.1%" in stdout
    assert re.search(r"sigmoid: Of the [5-7]\.\d decades lost .* were lost in\s+sigmoid", stdout)


def test_layers_beyond_a_network_are_nan_and_those_within_are_not(run):
    shallow = run[1].cotangent_rms.sel(depth=2)
    assert np.isfinite(shallow.sel(layer=slice(1, 3))).all()
    assert np.isnan(shallow.sel(layer=slice(4, None))).all()


def test_the_dataset_is_labelled(run):
    dataset = run[1]
    dims = ("activation", "depth", "learning_rate", "seed", "step", "layer")
    assert set(dataset.cotangent_rms.dims) == set(dims)
    assert set(dataset.attrs) == {
        "config",
        "versions",
        "devices",
        "code",
        "jax",
        "jaxlib",
        "optax",
        "backend",
    }
    assert dataset.initializer.sel(activation="sigmoid") == "glorot_normal"


@pytest.mark.slow
def test_running_again_reuses_the_folder(run):
    out = run[2]
    mtime = (out / "data.nc").stat().st_mtime_ns
    again = command(*SIGMOID, "--learning_rates=0.01,0.1", f"--out={out}")
    assert "Reusing" in again.stdout
    assert (out / "data.nc").stat().st_mtime_ns == mtime
    process = command(*SIGMOID, "--learning_rates=0.01", f"--out={out}")
    assert process.returncode != 0
    assert "learning_rates=[0.01, 0.1], not [0.01]" in process.stderr


@pytest.mark.slow
def test_a_diverging_network_is_recorded_and_said(tmp_path):
    config = activation.Config(
        activations=("relu",), depths=(3,), learning_rates=(1e6,), steps=20, seeds=2, batch_size=16
    )
    dataset = activation.measure(config)
    assert (dataset.outcome == train.Outcome.DIVERGED).all()
    assert "diverges (2 of 2 seeds)" in activation.verdict(dataset)
    crosses = [
        line for line in activation.figure(dataset).axes[2].lines if line.get_marker() == "x"
    ]
    assert len(crosses) == 2
