import numpy as np
import pytest
import xarray as xr

from experiments import residual
from experiments.common import families
from tests.commands import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """32 blocks, which is 64 layers, of four kinds, through the command line."""
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--blocks=plain,pre_activation,rezero,fixup", "--counts=32", "--steps=150"),
        *("--record_every=50", "--seeds=2", "--learning_rates=0.001,0.01", f"--out={out}"),
        experiment="residual",
        optimized=True,
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_gated_blocks_learn_at_a_depth_where_plain_ones_do_not(run):
    summary = families.summary(residual.between_blocks(run[1])).isel(count=0)
    for kind in ("rezero", "fixup"):
        assert float(summary.accuracy.sel(block=kind)) > 0.9
        assert int(summary.diverged.sel(block=kind)) == 0
    assert float(summary.accuracy.sel(block="plain")) < 0.6


@pytest.mark.slow
def test_bare_sums_double_the_gradient_and_gated_ones_keep_it(run):
    """A branch as large as its input doubles mean squares: the error signal grows by 2^(1/2)."""
    summary = families.summary(residual.between_blocks(run[1])).isel(count=0)
    blocks = 32  # between the input of the first and the output of the last
    growth = 10 ** (float(summary.log10_share.sel(block="pre_activation")) / blocks)
    assert growth == pytest.approx(2**0.5, rel=0.1)  # of width 64: fluctuations of a few percent
    assert float(summary.log10_share.sel(block="rezero")) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_the_trunk_has_a_place_before_each_block_and_after_the_last(run):
    trunk = run[1].trunk_cotangent_rms.isel(count=0, seed=0, learning_rate=0, step=-1)
    assert run[1].sizes["place"] == 34  # and the output of the network
    assert np.isfinite(trunk.sel(block="rezero")).all()


@pytest.mark.slow
def test_the_verdict_names_the_best(run):
    (best,) = [line for line in run[0].splitlines() if line.startswith("Best at count 32:")]
    assert best.split()[4].strip(";.") in ("rezero", "fixup")


def test_fixup_with_a_norm_is_refused_in_one_line():
    process = command("--norm=batch_norm", experiment="residual")
    assert process.returncode == 1
    assert process.stderr.strip() == (
        "residual: norm has batch_norm and blocks has fixup, which replaces norms; leave one out."
    )
