import numpy as np
import pytest
import xarray as xr

from experiments import mean_field
from tests.commands import command
from tests.helpers import assert_refuses


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment at its smallest size at which agreement means something."""
    out = tmp_path_factory.mktemp("run")
    process = command(
        "--activations=tanh,relu",
        "--blocks=plain,batch_norm",
        "--initializers=derived",
        "--width=256",
        "--depth=12",
        f"--out={out}",
        experiment="mean_field",
    )
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_measured_slopes_are_within_5_percent_of_the_predicted_ones(run):
    assert run[1].agrees.all()
    assert run[1].sizes["seed"] == 8
    chi = run[1].slope_predicted.sel(block="batch_norm", activation="relu", initializer="derived")
    # Yang et al. 2019 with 64 inputs: 1.4931 a layer, whatever the scale
    assert float(chi) == pytest.approx(np.log(1.4931), rel=1e-3)


@pytest.mark.slow
def test_signal_and_correlation_are_those_predicted_within_what_width_allows(run):
    plain = run[1].sel(block="plain", initializer="derived")
    # One network's q strays by (2 / width)^(1/2) = 9 % a layer, the mean of 8 by 3 %, which tanh
    # keeps and ReLU adds up from layer to layer: three of these.
    for name, rtol in (("tanh", 0.1), ("relu", 0.3)):
        cell = plain.sel(activation=name)
        np.testing.assert_allclose(cell.q_measured.mean("seed"), cell.q_predicted, rtol=rtol)
        error = cell.correlation_measured.mean("seed") - cell.correlation_predicted
        assert float(np.abs(error).max()) < 0.06


@pytest.mark.slow
def test_the_verdict_and_the_figure_say_it(run):
    stdout, dataset = run
    assert "4 of 4 agree" in stdout
    assert len([line for line in stdout.splitlines() if line.endswith("agrees")]) == 4
    grid = mean_field.figure(dataset).axes
    assert len(grid) == 3 * 2
    assert {len(axes.collections) for axes in grid[-2:]} == {2}  # a band for each activation


@pytest.mark.slow
def test_a_slope_that_differs_is_said_to(run):
    dataset = run[1].copy(deep=True)
    dataset["agrees"][0, 0, 0] = False
    dataset["verdict"] = dataset["verdict"].astype(object)
    dataset["verdict"][0, 0, 0] = "DIFFERS"
    assert "DIFFERS" in mean_field.verdict(dataset)
    assert "3 of 4 agree" in mean_field.verdict(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip": 8}, "skip has 8; with a depth of 16 it must be at most 7"),
        ({"correlation": 1.5}, "correlation has 1.5; it must be at most 1"),
        ({"blocks": ("highway",)}, "blocks has 'highway'"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    assert_refuses(lambda: mean_field.Config(**change), message)


@pytest.mark.slow
def test_critical_weights_are_theorys():
    config = mean_field.Config(sigma_b=0.3)
    net = mean_field.network(config, "tanh", "pre_activation", "critical")
    prediction = mean_field.theory.predict(net, mean_field.inputs(config), correlation=1.0)
    assert prediction.names[1] == "hidden[0].dense/tanh"
    plain = mean_field.network(config, "tanh", "plain", "critical")
    gains = mean_field.theory.predict(plain, mean_field.inputs(config)).to_xarray().log_gain
    # Poole's critical point at sigma_b = 0.3: chi_1 = 1 once the variance has come to q*
    deep_gains = gains.sel(row=[f"hidden[{i}].dense" for i in range(8, 15)])
    np.testing.assert_allclose(np.diff(deep_gains), 0, atol=2e-3)
    assert_refuses(
        lambda: mean_field.network(config, "gelu", "plain", "critical"),
        "gelu has no critical scale",
    )


def test_columns_are_as_wide_as_the_longest_name():
    axes = ("activation", "block", "initializer")
    names = {
        "activation": ["bent_identity", "tanh"],
        "block": ["plain"],
        "initializer": ["derived"],
    }
    of_cells = {
        "slope_predicted": 0.5,
        "slope_measured": 0.51,
        "slope_error": 0.01,
        "agrees": True,
        "verdict": "agrees",
    }
    variables = {name: (axes, np.full((2, 1, 1), value)) for name, value in of_cells.items()}
    for name in ("q", "correlation"):
        for kind in ("predicted", "measured"):
            variables[f"{name}_{kind}"] = ((*axes, "layer", "seed"), np.ones((2, 1, 1, 1, 2)))
    header, *rows = mean_field.verdict(xr.Dataset(variables, names)).splitlines()[:3]
    assert [row.split()[:3] for row in rows] == [
        ["bent_identity", "plain", "derived"],
        ["tanh", "plain", "derived"],
    ]
    assert len({row.index("plain") for row in rows} | {header.index("block")}) == 1
