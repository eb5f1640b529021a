import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import slow
from vanishing import initializers, layers, networks


def test_mlp_equals_its_formula(x64, key):
    weights = initializers.scaled(1.1, 0.2)
    net = networks.mlp(3, depth=4, width=5, activation="tanh", weights=weights)
    x = np.random.default_rng(0).normal(size=(7, 2, 4))
    params, state = net.init(key, jnp.asarray(x))
    chain = [params["first"], *params["hidden"], params["output"]]
    assert len(chain) == 5
    h = x.reshape(7, 8)
    for i, layer in enumerate(chain):
        h = h @ np.asarray(layer["dense"]["kernel"]) + np.asarray(layer["dense"]["bias"])
        h = np.tanh(h) if i < 4 else h
    np.testing.assert_allclose(net.apply(params, state, jnp.asarray(x)).output, h, rtol=1e-12)


FEW = ["relu", "prelu", "sine"]


@pytest.mark.parametrize(
    "activation", [*FEW, *slow(*(name for name in layers.ACTIVATIONS if name not in FEW))]
)
def test_every_activation_makes_a_network_with_finite_gradients(activation, key):
    net = networks.mlp(3, depth=3, width=5, activation=activation)
    x = jax.random.normal(key, (4, 6))
    params, state = jax.jit(net.init)(key, x)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, state, x).output ** 2)))(params)
    kernels = grads["first"]["dense"]["kernel"], grads["hidden"].layers["dense"]["kernel"]
    assert all(np.isfinite(kernel).all() and kernel.any() for kernel in kernels)


def test_a_single_hidden_layer_has_nothing_to_repeat(key):
    net = networks.mlp(2, depth=1, width=3)
    params, state = net.init(key, jnp.ones((1, 4)))
    assert "hidden" not in params
    assert net.apply(params, state, jnp.ones((1, 4))).output.shape == (1, 2)


def test_default_weights_are_those_derived_for_the_activation(key):
    x = jnp.ones((1, 512))

    def mean_square(activation):
        params, _ = networks.mlp(2, depth=1, width=512, activation=activation).init(key, x)
        return float(jnp.mean(params["first"]["dense"]["kernel"] ** 2)) * 512

    rtol = 5 * (2 / 512**2) ** 0.5  # five standard errors
    assert mean_square("relu") == pytest.approx(2, rel=rtol)
    assert mean_square("sigmoid") == pytest.approx(1, rel=rtol)
    assert mean_square(jnp.sin) == pytest.approx(1, rel=rtol)


def test_output_activation_and_wrap(key):
    plain = networks.mlp(2, depth=3, width=4, activation="tanh")
    net = networks.mlp(
        2, depth=3, width=4, activation="tanh", output_activation="sigmoid", wrap=layers.residual
    )
    x = jax.random.normal(key, (3, 4))
    params, state = plain.init(key, x)
    h = jnp.tanh(layers.dense(4).apply(params["first"]["dense"], {}, x).output)
    for layer in params["hidden"]:
        h = h + jnp.tanh(layers.dense(4).apply(layer["dense"], {}, h).output)
    expected = jax.nn.sigmoid(layers.dense(2).apply(params["output"]["dense"], {}, h).output)
    np.testing.assert_allclose(net.apply(params, state, x).output, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 0, "width": 4}, "mlp has depth 0"),
        ({"depth": 2, "width": 0}, "mlp has width 0"),
        ({"depth": 2, "width": 4, "activation": "nope"}, "activation is 'nope'"),
    ],
)
def test_mlp_refuses(sizes, message):
    with pytest.raises(ValueError, match=message):
        networks.mlp(2, **sizes)
