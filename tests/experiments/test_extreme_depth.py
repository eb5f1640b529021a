import jax
import numpy as np
import pytest
import xarray as xr

from experiments import extreme_depth
from tests.commands import command
from tests.helpers import assert_refuses, slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A plain network of 1,000 layers through the command line."""
    out = tmp_path_factory.mktemp("run")
    flags = ("--depths=1000", "--steps=100", "--record_every=25", "--learning_rates=0.002")
    flags = (*flags, "--checkpoint", f"--out={out}")
    process = command(*flags, experiment="extreme_depth", optimized=True)
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_a_thousand_plain_layers_learn(run):
    best = run[1].test_accuracy.isel(step=-1).max()
    assert float(best) > 0.9
    assert float(run[1].test_accuracy.isel(step=0).max()) < 0.4


@pytest.mark.slow
def test_signal_and_error_signal_are_those_predicted_at_every_layer(run):
    start = run[1].isel(step=0, depth=0, learning_rate=0, seed=0)
    hidden = start.sel(layer=slice(1, 1000))
    np.testing.assert_allclose(hidden.signal_rms**2, hidden.q_predicted, rtol=0.2)
    measured = 2 * np.log(hidden.cotangent_rms / hidden.cotangent_rms.isel(layer=-1))
    predicted = hidden.log_backward_predicted - hidden.log_backward_predicted.isel(layer=-1)
    assert float(np.abs(measured - predicted).max()) < 0.3  # of a product of 1,000 factors


@pytest.mark.slow
def test_checkpoints_take_a_fraction_of_the_memory(run):
    stdout, dataset = run
    activations = 1000 * 64 * 64 * 4
    assert dataset.memory.item() > activations
    assert dataset.memory_with_checkpoint.item() < 0.3 * dataset.memory.item()
    assert "jax.checkpoint (on in this run)" in stdout


@pytest.mark.slow
def test_the_figure_shows_prediction_and_measurement(run):
    drawing = extreme_depth.figure(run[1])
    assert [len(axes.lines) for axes in drawing.axes] == [3, 3, 2]


@pytest.mark.parametrize("depth", [10_000, *slow(100)])
def test_the_variance_keeps_the_singular_values_together(depth):
    """Small q: f' = 1 - h^2 and so var[f'^2] / E[f'^2]^2 = 8 q^2, for tanh."""
    q = extreme_depth.variance("tanh", depth, 0.1)
    assert q == pytest.approx(0.1 / (8 * depth) ** 0.5, rel=0.2)


@pytest.mark.slow
def test_the_singular_values_of_a_drawn_network_stray_as_asked_for(key):
    config = extreme_depth.Config(width=128, spread=0.5)
    net = extreme_depth.network(config, 50, 128, checkpoint=True)
    q = extreme_depth.variance("tanh", 50, 0.5)
    x = q**0.5 * jax.random.normal(key, (1, 128))
    params, state = net.init(key, x)
    jacobian = jax.jacobian(lambda x: net.apply(params, state, x[None]).output[0])(x[0])
    squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
    assert np.mean(squares) == pytest.approx(1.0, rel=0.15)
    assert np.std(squares) / np.mean(squares) == pytest.approx(0.5, rel=0.3)


@pytest.mark.slow
def test_blocks_add_up_to_the_depth():
    for depth in (2, 3, 10, 100):
        net = extreme_depth.network(extreme_depth.Config(width=4), depth, 3, checkpoint=True)
        params = jax.eval_shape(net.init, jax.random.key(0), np.ones((1, 4), np.float32)).params
        kernels = [leaf.size / 16 for leaf in jax.tree.leaves(params) if leaf.shape[-2:] == (4, 4)]
        assert sum(kernels) == depth


def test_an_activation_without_isometry_is_refused():
    assert_refuses(
        lambda: extreme_depth.variance("relu", 100, 0.1), "relu has no scale at which 100 layers"
    )
