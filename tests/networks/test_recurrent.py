import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import networks

FEW = ["rnn", "chrono_lstm", "gru"]


@pytest.mark.parametrize("cell", [*FEW, *slow(*(c for c in networks.CELLS if c not in FEW))])
def test_a_network_reads_out_its_layer_at_the_end_or_at_every_time(cell, x64, key):
    x = jax.random.normal(key, (3, 6, 2))
    net = networks.rnn(4, cell=cell, width=5, chrono=20, sequence=True)
    params, state = net.init(key, x)
    h = networks.recurrent_layer(cell, 5, 20).apply(params["recurrent"], {}, x).output
    read_out = np.asarray(h) @ np.asarray(params["output"]["kernel"])
    output = net.apply(params, state, x).output
    assert output.shape == (3, 6, 4)
    np.testing.assert_allclose(output[:, -1], read_out, rtol=1e-10)
    last = networks.rnn(4, cell=cell, width=5, chrono=20).apply(params, state, x).output
    np.testing.assert_allclose(last, output[:, -1], rtol=1e-10)


def test_each_cell_starts_as_its_name_says(key):
    units, spec = 200, jax.ShapeDtypeStruct((1, 1, 100), jnp.float32)

    def drawn(cell, **options):
        return networks.recurrent_layer(cell, units, **options).init(key, spec).params

    rtol = 5 * (2 / units**2) ** 0.5  # five standard errors of the mean square of Gaussians
    kernel = np.asarray(drawn("rnn")["h"]["kernel"])
    assert np.mean(kernel**2) * units == pytest.approx(1, rel=rtol)
    assert np.linalg.norm(kernel, 2) > 1.5  # 2 for many units
    kernel = np.asarray(drawn("orthogonal_rnn")["h"]["kernel"])
    np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), 1, rtol=1e-5)
    irnn = drawn("irnn")
    np.testing.assert_array_equal(irnn["h"]["kernel"], np.eye(units))
    std = float(jnp.std(irnn["i"]["kernel"]))
    assert std == pytest.approx(0.001, rel=5 / (2 * 100 * units) ** 0.5)  # five standard errors
    assert not irnn["i"]["bias"].any()
    assert set(np.asarray(drawn("lstm")["hf"]["bias"]).tolist()) == {1.0}
    forget = np.asarray(drawn("chrono_lstm", chrono=50)["hf"]["bias"])
    assert 0 <= forget.min() < 1 < 3.5 < forget.max() < np.log(49.001)  # log(49) is 3.89


def test_irnn_holds_what_it_has_seen(key):
    """h' = relu(h + U x): with positive U x, the sum of all inputs."""
    layer = networks.recurrent_layer("irnn", 5)
    x = jax.random.uniform(key, (2, 30, 3))
    params, _ = layer.init(key, x)
    params["i"]["kernel"] = jnp.abs(params["i"]["kernel"])
    expected = np.asarray(x).sum(axis=1) @ np.asarray(params["i"]["kernel"])
    np.testing.assert_allclose(layer.apply(params, {}, x).output, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"cell": "ltsm"}, ("cell is 'ltsm'", "rnn, irnn")),
        ({"cell": "chrono_lstm"}, ("chrono_lstm needs chrono",)),
        ({"width": 0}, ("rnn has width 0",)),
    ],
    ids=["cell", "chrono", "width"],
)
def test_rnn_refuses(options, fragments):
    assert_refuses(lambda: networks.rnn(1, **{"width": 3} | options), *fragments)
