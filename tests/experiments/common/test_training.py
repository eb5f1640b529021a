import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments import clipping, optimizer, regularization
from experiments.common import groups, training
from tests.helpers import assert_refuses
from vanishing import layers, networks, sweep
from vanishing.sweep.run_folder import Folder


def test_the_grid_has_every_rate_and_seed_and_they_share_their_start():
    config = groups.ClassifierOptions(
        learning_rates=(0.01, 0.1), seeds=2, steps=4, record_every=2, width=8, batch_size=16
    )
    examples, classes = training.load(config)
    network = networks.mlp(classes, depth=2, width=8)
    grid = sweep.Grid(numeric=config.numeric_axes())
    dataset = sweep.run(grid, lambda: training.cell(config, network), shared=examples)
    assert dict(dataset.sizes) == {"learning_rate": 2, "seed": 2, "step": 3, "layer": 3}
    start = dataset.loss.isel(step=0)
    np.testing.assert_array_equal(start.sel(learning_rate=0.01), start.sel(learning_rate=0.1))
    assert float(start.isel(learning_rate=0, seed=0)) != float(start.isel(learning_rate=0, seed=1))
    end = dataset.loss.isel(step=-1)
    assert (end.sel(learning_rate=0.01) != end.sel(learning_rate=0.1)).all()


@pytest.mark.slow
def test_a_network_is_given_up_at_the_first_loss_that_is_not_finite_if_asked_for():
    config = groups.ClassifierOptions(
        learning_rates=(0.01, 1e9),
        seeds=1,
        steps=20,
        record_every=1,
        width=8,
        batch_size=16,
        abort_nonfinite=True,
    )
    examples, classes = training.load(config)
    network = networks.mlp(classes, depth=2, width=8, activation="identity")
    grid = sweep.Grid(numeric=config.numeric_axes())
    with pytest.raises(ValueError, match=r"a loss is infinite or nan at step \d+\.$"):
        sweep.run(grid, lambda: training.cell(config, network), shared=examples)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    """Parameters, batch statistics, momentum, random keys and the records up to then."""
    config = groups.ClassifierOptions(
        learning_rates=(0.01, 0.1), seeds=1, steps=8, record_every=2, width=8, batch_size=16
    )
    examples, classes = training.load(config)
    norm = layers.serial(layers.batch_norm(), layers.dropout(0.3))
    network = networks.mlp(classes, depth=2, width=8, norm=norm)
    grid = sweep.Grid(numeric=config.numeric_axes())

    def run(**options):
        cell = training.cell(config, network)
        return sweep.run(grid, lambda: cell, shared=examples, checkpoint_every=0.0, **options)

    def interrupt(chunks, label):
        for chunk in chunks:
            if chunk == 3:
                raise KeyboardInterrupt
            yield chunk

    chunks_after = []
    with pytest.raises(KeyboardInterrupt):
        run(store=Folder(tmp_path), progress=interrupt)
    results = run(
        store=Folder(tmp_path),
        progress=lambda chunks, label: chunks_after.extend(chunks) or chunks_after,
    )
    assert chunks_after == [3, 4]
    xr.testing.assert_identical(results, run())


def losses(*runs):
    return xr.Dataset(
        {"loss": (("learning_rate", "seed", "step"), np.array(runs, float))},
        coords={"learning_rate": [0.1, 1.0, 10.0][: len(runs)]},
    )


def test_the_best_rate_has_the_lowest_mean_loss_over_seeds_and_last_records():
    dataset = losses([[9, 2, 2], [9, 2, 2]], [[9, 1, 1], [9, 9, 9]], [[9, 1, 1], [9, 2, 2]])
    assert float(training.best_learning_rate(dataset, last=2)) == 10.0


def test_a_rate_at_which_a_seed_diverges_is_the_last_choice():
    nan, inf = np.nan, np.inf
    assert float(training.best_learning_rate(losses([[5, 5], [5, 5]], [[1, 1], [1, nan]]))) == 0.1
    assert float(training.best_learning_rate(losses([[1, 1], [1, inf]], [[5, 5], [5, 5]]))) == 1.0
    assert float(training.best_learning_rate(losses([[nan, 1]], [[nan, 1]]))) == 0.1
    assert float(training.best_learning_rate(losses([[nan, 1]], [[inf, 1]]))) == 0.1


def test_powers_beyond_floating_point_are_written_out():
    assert training.power(-400.0) == "1.0e-400"
    assert training.power(np.log10(2.5e-3)) == "2.5e-03"
    assert [training.power(x) for x in (-np.inf, np.inf, np.nan)] == ["0", "inf", "nan"]


def test_the_derived_initializer_depends_on_the_activation():
    default = groups.InitializerOptions()
    orthogonal = groups.InitializerOptions(initializer="orthogonal")
    assert training.initializer_name(default, "relu") == "he_normal"
    assert training.initializer_name(default, "sigmoid") == "glorot_normal"
    assert training.initializer_name(orthogonal, "relu") == "orthogonal"


def test_options_that_are_compared_complete_a_configuration_that_lacks_them():
    options = training.complete(groups.RunOptions(steps=20), optimizer="lion")
    assert (options.optimizer, options.steps) == ("lion", 20)
    with pytest.raises(TypeError, match="optimizer"):
        training.complete(groups.OptimizerOptions(), optimizer="lion")


NETWORKS = """
import jax, jax.numpy as jnp
import flax.linen as nn
from flax import nnx
from vanishing import networks

def layer():
    return networks.mlp(10, depth=2, width=8)

def linen():
    flat = lambda x: x.reshape(len(x), -1)
    return nn.Sequential([flat, nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(10)])

class Model(nnx.Module):
    def __init__(self, rngs):
        sizes = [(64, 8), (8, 8), (8, 10)]
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in sizes])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for dense in self.layers[:-1]:
            x = self.dropout(jax.nn.relu(dense(x)))
        return self.layers[-1](x)

def model():
    return Model

def narrow():
    return networks.mlp(3, depth=2, width=8)

def wide_input():
    return lambda rngs: nnx.Linear(100, 10, rngs=rngs)

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "given_networks.py"
    path.write_text(NETWORKS)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layer", "linen", "model"])
def test_a_network_of_the_users_own_is_trained(name, file):
    config = optimizer.Config(
        network=f"{file}:{name}",
        optimizers=("adam",),
        learning_rates=(0.01,),
        steps=100,
        record_every=20,
        seeds=2,
    )
    dataset = optimizer.measure(config)
    assert dataset.test_accuracy.dims == ("optimizer", "learning_rate", "seed", "step")
    assert dataset.sizes["layer"] == 3
    assert np.isfinite(dataset.cotangent_rms).all()
    assert (dataset.kernel_gradient_norm.isel(step=0) > 0).all()
    assert float(dataset.test_accuracy.isel(step=-1).min()) > 0.5
    assert "adam" in optimizer.verdict(dataset)


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("number", ("returns int; it must return a vanishing.Layer, a Flax Linen module, or",)),
        ("narrow", ("outputs of shape (2, 3); it must be (2, 10), a number for each class",)),
        ("wide_input", ("does not run on images (8, 8, 1): ",)),
        ("absent", ("has no function 'absent'",)),
    ],
)
def test_what_is_no_network_for_the_data_is_refused(name, fragments, file):
    examples, classes = training.load(groups.DataOptions())
    network = f"{file}:{name}"
    assert_refuses(lambda: training.given_network(network, examples, classes), *fragments)


@pytest.mark.parametrize("module", [clipping, optimizer, regularization])
def test_options_of_the_own_network_are_refused_beside_a_given_one(module, file):
    config = module.Config(network=f"{file}:layer")
    message = "depth is 7, but --network brings a network of its own; leave it out."
    assert_refuses(lambda: dataclasses.replace(config, depth=7), message)
    assert_refuses(lambda: module.Config(network="nowhere.py:make"), "network names nowhere.py, wh")
    assert not set(module.Config.own_network) & set(config.question())
    assert "network" not in module.Config().question()
    assert module.Config(depth=7).question()["depth"] == 7
