import pytest
import xarray as xr

from experiments import convolution
from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--depths=20", "--norms=batch_norm", "--steps=100", "--record_every=50"),
        *("--learning_rates=0.01", f"--out={out}"),
        experiment="convolution",
        optimized=True,
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return families.summary(convolution.named(dataset.load())).sel(depth=20)


@pytest.mark.slow
def test_with_shortcuts_twenty_layers_learn_in_steps_that_leave_their_plain_twins_behind(summary):
    residual = float(summary.accuracy.sel(network="post_activation, batch_norm"))
    plain = float(summary.accuracy.sel(network="plain, batch_norm"))
    assert residual > 0.85
    assert plain < residual - 0.2


@pytest.mark.slow
def test_every_convolution_is_a_layer(summary):
    assert summary.hidden.values.tolist() == [19, 19]


def test_depths_that_are_no_residual_network_are_refused(tmp_path):
    process = command("--depths=8,10", f"--out={tmp_path}", experiment="convolution")
    assert process.returncode == 1
    assert process.stderr.strip() == (
        "convolution: depths has 10; it must be 6 n + 2: 8, 14, 20, 26, 32, ..."
    )
