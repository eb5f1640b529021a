import pytest
import xarray as xr

from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--optimizers=momentum,adam", "--activations=sigmoid", "--depth=5", "--steps=400"),
        *("--record_every=40", "--seeds=2", "--learning_rates=0.001,0.01,0.1", f"--out={out}"),
        experiment="optimizer",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return families.summary(dataset.load()).sel(activation="sigmoid")


@pytest.mark.slow
def test_where_the_gradient_vanishes_adam_learns_and_momentum_does_not(summary):
    """Adam divides each weight's gradient by its own size, so that none is too small."""
    assert float(summary.accuracy.sel(optimizer="momentum")) < 0.25
    assert float(summary.accuracy.sel(optimizer="adam")) > 0.8


@pytest.mark.slow
def test_both_start_from_the_same_networks(summary):
    assert len(set(summary.log10_share.values.tolist())) == 1
