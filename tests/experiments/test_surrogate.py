import pytest
import xarray as xr

from experiments.common import families
from tests.commands import command

LAYERS = 5  # from the first hidden layer to the last


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--functions=sign", "--surrogates=none,straight_through,sigmoid", "--depths=6"),
        *("--steps=200", "--record_every=100", "--learning_rates=0.01", "--seeds=2"),
        f"--out={out}",
        experiment="surrogate",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_without_a_surrogate_nothing_comes_back_and_the_read_out_alone_learns(run):
    start = run[1].cotangent_rms.sel(surrogate="none").isel(step=0)
    assert (start.isel(layer=slice(None, 6)) == 0).all()
    assert (start.isel(layer=6) > 0).all()


@pytest.mark.slow
def test_each_surrogate_multiplies_the_gradient_by_the_predicted_factor(run):
    log10_factor = families.summary(run[1]).log10_share.squeeze() / LAYERS
    predicted = run[1].predicted_log10_share.squeeze() / LAYERS
    for name in ("straight_through", "sigmoid"):
        # one network of width 64 strays by some 5 % a layer over so few
        assert float(log10_factor.sel(surrogate=name)) == pytest.approx(
            float(predicted.sel(surrogate=name)), abs=0.04
        )
    assert 10 ** float(predicted.sel(surrogate="straight_through")) == pytest.approx(1.0, abs=0.01)
    assert 10 ** float(predicted.sel(surrogate="sigmoid")) < 0.5


@pytest.mark.slow
def test_six_layers_of_signs_learn_with_a_surrogate_and_hardly_without(run):
    accuracy = families.summary(run[1]).accuracy.squeeze()
    best = float(accuracy.sel(surrogate=["straight_through", "sigmoid"]).max())
    assert best > 0.85
    assert float(accuracy.sel(surrogate="none")) < best - 0.1


@pytest.mark.slow
def test_the_table_has_theory_s_word(run):
    (row,) = [line for line in run[0].splitlines() if line.startswith("sign      sigmoid")]
    predicted = run[1].predicted_log10_share.sel(surrogate="sigmoid").item()
    assert f" {10 ** (predicted / LAYERS):.3f} " in row
