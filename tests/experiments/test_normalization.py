import numpy as np
import pytest
import xarray as xr

from experiments.common import families
from tests.commands import command


def run(out, *flags):
    process = command(*flags, "--seeds=2", f"--out={out}", experiment="normalization")
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return dataset.load()


@pytest.mark.slow
def test_a_deep_sigmoid_network_learns_with_batch_norm_only(tmp_path):
    dataset = run(
        tmp_path,
        *("--norms=none,batch_norm", "--activation=sigmoid", "--depths=10"),
        *("--steps=200", "--record_every=20", "--learning_rates=0.01,0.1"),
    )
    summary = families.summary(dataset).sel(depth=10)
    assert float(summary.accuracy.sel(norm="batch_norm")) > 0.9
    assert float(summary.accuracy.sel(norm="none")) < 0.2
    assert float(summary.log10_share.sel(norm="none")) < -9 * np.log10(4)  # sigmoid' <= 1/4
    assert float(summary.log10_share.sel(norm="batch_norm")) > -1


@pytest.fixture(scope="module")
def relu(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    flags = ("--norms=batch_norm,rms_norm,weight_standardization", "--depths=30")
    return run(out, *flags, "--steps=2", "--record_every=2", "--learning_rates=0.01")


@pytest.mark.slow
def test_batch_norm_explodes_at_initialisation_as_published_and_the_others_do_not(relu):
    """A factor of 1.4931 a layer in squares for batches of 64 (Yang et al., ICLR 2019)."""
    factor = 10 ** (families.summary(relu).log10_share.sel(depth=30) / 29)
    # 29 layers of width 64: one network's log gradient strays by some 0.7, which is 2.5 % a layer
    assert float(factor.sel(norm="batch_norm")) == pytest.approx(1.4931**0.5, rel=0.05)
    assert float(factor.sel(norm="rms_norm")) == pytest.approx(1.0, rel=0.05)
    assert float(factor.sel(norm="weight_standardization")) == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_theory_predicts_it(relu):
    log10_factor = families.summary(relu).log10_share / 29
    off = log10_factor - relu.predicted_log10_share / 29
    assert float(abs(off).max()) < 0.02  # 5 % a layer, as above


def test_groups_must_divide_the_width(tmp_path):
    process = command("--groups=5", f"--out={tmp_path}", experiment="normalization")
    assert process.returncode == 1
    assert process.stderr.strip() == "normalization: groups is 5; it must divide the width (64)."
