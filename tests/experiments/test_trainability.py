import numpy as np
import pytest
import xarray as xr

from experiments import trainability
from tests.commands import command
from vanishing import theory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment at its smallest real size, through its command line."""
    out = tmp_path_factory.mktemp("run")
    flags = ("--depths=3,30", "--sigma_ws=0.9,1.33,3.0", "--seeds=1", "--learning_rates=0.01")
    process = command(
        *flags,
        "--steps=120",
        "--record_every=30",
        f"--out={out}",
        experiment="trainability",
        optimized=True,
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_deep_networks_train_next_to_the_critical_scale_alone(run):
    accuracy = trainability.accuracy(run[1])
    assert accuracy.dims == ("depth", "sigma_w")
    assert (accuracy.sel(depth=3) > 0.7).all()
    deep = accuracy.sel(depth=30)
    assert float(deep.sel(sigma_w=1.33)) > 0.7
    assert float(deep.sel(sigma_w=0.9)) < 0.3
    assert float(deep.sel(sigma_w=3.0)) < 0.5


@pytest.mark.slow
def test_the_depth_scale_is_that_of_the_published_theory(run):
    """Schoenholz et al.: without end at the critical scale, which is 1.760955 squared at 0.05."""
    dataset = run[1]
    (point,) = theory.critical("tanh", 0.05**0.5)
    assert point.sigma_w**2 == pytest.approx(1.760955, rel=1e-4)
    peak = float(dataset.line_depth_scale.idxmax())
    step = float(np.diff(dataset.line_sigma_w)[0])
    assert peak == pytest.approx(point.sigma_w, abs=step)
    # far below it the correlation's slope at c* = 1 is chi_1
    ordered = dataset.depth_scale.sel(sigma_w=0.9)
    q = theory.fixed_point("tanh", sigma_w=0.9, sigma_b=0.05**0.5)
    assert float(ordered) == pytest.approx(
        -1 / np.log(theory.chi("tanh", q=q, sigma_w=0.9)), rel=1e-3
    )


@pytest.mark.slow
def test_the_verdict_and_the_figure_say_it(run):
    stdout, dataset = run
    shallow, deep = (line for line in stdout.splitlines() if line.endswith(("of 3",)))
    assert shallow.split()[:4] == ["3", "0.9", "to", "3"]
    assert deep.split()[:2] == ["30", "1.33"]
    axes = trainability.figure(dataset).axes[0]
    colours = axes.collections[0].get_array()
    np.testing.assert_allclose(colours, trainability.accuracy(dataset), rtol=1e-6)
    assert axes.get_ylim() == (-10.5, 43.5)


@pytest.mark.parametrize(
    ("holds", "text"),
    [
        ([True, True, False, True], "1 to 1.5, 3"),
        ([False] * 4, "none"),
        ([True] * 4, "1 to 3"),
    ],
)
def test_neighbouring_scales_are_joined(holds, text):
    mask = xr.DataArray(holds, {"sigma_w": [1.0, 1.5, 2.0, 3.0]}, "sigma_w")
    assert trainability._spans(mask) == text
