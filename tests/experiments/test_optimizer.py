import pytest
import xarray as xr

from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    ended = command(
        *("--optimizers=momentum,adam", "--activations=sigmoid", "--depth=5", "--steps=400"),
        *("--record_every=40", "--seeds=2", "--learning_rates=0.001,0.01,0.1", f"--out={out}"),
        experiment="optimizer",
    )
    assert ended.returncode == 0, ended.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return families.summary(dataset.load()).sel(activation="sigmoid")


@pytest.mark.slow
def test_where_the_gradient_vanishes_adam_learns_and_momentum_does_not(found):
    """Adam divides each weight's gradient by its own size, so that none is too small."""
    assert float(found.accuracy.sel(optimizer="momentum")) < 0.25
    assert float(found.accuracy.sel(optimizer="adam")) > 0.8


@pytest.mark.slow
def test_both_start_from_the_same_networks(found):
    assert len(set(found.log10_share.values.tolist())) == 1
