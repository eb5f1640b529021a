import pytest
import xarray as xr

from experiments import clipping
from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--clippings=none,value,global_norm", "--thresholds=0.1,1", "--learning_rates=0.01"),
        *("--steps=300", "--record_every=50", "--seeds=2", f"--out={out}"),
        experiment="clipping",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_clipping_turns_a_run_that_diverges_into_one_that_learns(run):
    summary = families.summary(clipping.at_best_threshold(run[1]))
    assert int(summary.diverged.sel(clipping="none")) == 2
    for name in ("value", "global_norm"):
        assert int(summary.diverged.sel(clipping=name)) == 0
        assert float(summary.accuracy.sel(clipping=name)) > 0.6
    assert "diverges (2 of 2 seeds)" in run[0]


@pytest.mark.slow
def test_the_gradient_explodes_as_the_scale_says(run):
    """ReLU multiplies mean squares by sigma_w^2 / 2 a layer: 2.4 / 2^(1/2) in the error signal."""
    summary = families.summary(clipping.at_best_threshold(run[1]))
    growth = 10 ** (float(summary.log10_share.sel(clipping="none")) / 9)
    assert growth == pytest.approx(2.4 / 2**0.5, rel=0.06)


@pytest.mark.slow
def test_each_way_has_the_threshold_with_its_lowest_loss(run):
    ends = run[1].loss.isel(step=slice(-5, None), learning_rate=0).mean(("seed", "step"))
    best = clipping.at_best_threshold(run[1]).threshold
    for name in ("value", "global_norm"):
        expected = ends.sel(clipping=name).idxmin("clip_threshold")
        assert float(best.sel(clipping=name)) == float(expected)
