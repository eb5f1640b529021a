import pytest
import xarray as xr

from experiments import regularization
from tests.commands import command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    process = command(
        *("--l1=0.001", "--l2=0.01", "--dropout=0.2", "--steps=300", "--record_every=50"),
        *("--seeds=2", "--learning_rates=0.03", f"--out={out}"),
        experiment="regularization",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_penalties_shrink_the_weights_and_dropout_does_not(run):
    weights = regularization.ends(run[1]).weights
    baseline = float(weights.sel(regularization="none"))
    assert float(weights.sel(regularization="l1 0.001")) < 0.85 * baseline
    assert float(weights.sel(regularization="l2 0.01")) < 0.75 * baseline
    assert float(weights.sel(regularization="dropout 0.2")) > 0.95 * baseline


@pytest.mark.slow
def test_the_gradient_dies_out_with_the_loss_unless_something_keeps_it(run):
    gradient = regularization.ends(run[1]).gradient
    baseline = float(gradient.sel(regularization="none"))
    for name in ("l1 0.001", "l2 0.01", "dropout 0.2"):
        assert float(gradient.sel(regularization=name)) > 10 * baseline


@pytest.mark.slow
def test_all_of_them_learn_from_200_examples(run):
    accuracy = run[1].test_accuracy.isel(step=-1).mean("seed")
    assert float(accuracy.min()) > 0.85


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--penalty=l2", "Unknown command line flag 'penalty'"),
        ("--dropout=0.5,1.5", "dropout has 1.5; a rate must be under 1."),
    ],
)
def test_bad_flags_are_refused_in_one_line(flag, message, tmp_path):
    process = command(flag, f"--out={tmp_path}", experiment="regularization")
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1
    assert process.stderr.startswith(f"regularization: {message}")


def test_strengths_that_are_nearly_alike_have_names_of_their_own():
    config = regularization.Config(l1=(0.001, 0.00100001, 1.0), l2=(0.01,), dropout=(0.5,))
    names = ["none", "l1 0.001", "l1 0.00100001", "l1 1", "l2 0.01", "dropout 0.5"]
    assert list(config.members()) == names
