import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_trees_close, real_data
from vanishing import data, initializers, layers, losses, networks
from vanishing.gradients import norm, value_grad_norms

X = np.random.default_rng(0).normal(size=(5, 6))
LABELS = np.array([0, 1, 2, 0, 1])


def loss_of(net, state, x=X, labels=LABELS):
    def loss(params):
        outputs = net.apply(params, state, jnp.asarray(x)).output
        return losses.softmax_cross_entropy(outputs, jnp.asarray(labels)), outputs

    return loss


def backpropagation(params, depth, slope):
    """|dL/dh| of every layer of a dense sigmoid network, by the four equations in NumPy."""
    chain = [params["first"], *(params["hidden"][i] for i in range(depth - 1)), params["output"]]
    kernels = [np.asarray(layer["dense"]["kernel"]) for layer in chain]
    biases = [np.asarray(layer["dense"]["bias"]) for layer in chain]
    activation, pre_activations = X, []
    for kernel, bias in zip(kernels, biases, strict=True):
        pre_activations.append(activation @ kernel + bias)
        activation = 1 / (1 + np.exp(-pre_activations[-1]))
    logits = pre_activations[-1]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (softmax - np.eye(3)[LABELS]) / len(X)
    norms = [np.linalg.norm(delta)]
    for kernel, h in zip(kernels[:0:-1], pre_activations[-2::-1], strict=True):
        delta = (delta @ kernel.T) * slope(h)
        norms.append(np.linalg.norm(delta))
    return norms[::-1]


def sigmoid_slope(h):
    return np.exp(-h) / (1 + np.exp(-h)) ** 2


def sigmoid_net(depth):
    weights = initializers.scaled(1.0, 1.0)
    return networks.mlp(3, depth=depth, width=6, activation="sigmoid", weights=weights)


def test_value_and_gradients_are_those_of_jax(x64, key):
    net = networks.mlp(3, depth=4, width=6, activation="prelu")
    params, state = net.init(key, jnp.asarray(X))
    measured = value_grad_norms(loss_of(net, state), params, len(X))
    (value, outputs), grads = jax.value_and_grad(loss_of(net, state), has_aux=True)(params)
    assert_trees_close(
        (measured.value, measured.aux, measured.grads), (value, outputs, grads), rtol=1e-12
    )


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_cotangents_are_those_of_backpropagation_by_hand_in_forward_order(x64, key, depth):
    net = sigmoid_net(depth)
    params, state = net.init(key, jnp.asarray(X))
    measured = value_grad_norms(loss_of(net, state), params, len(X))
    expected = backpropagation(params, depth, sigmoid_slope)
    np.testing.assert_allclose(measured.norms.cotangent, expected, rtol=1e-10)


def test_weight_and_bias_rows_are_norms_of_the_gradient(x64, key):
    net = sigmoid_net(3)
    params, state = net.init(key, jnp.asarray(X))
    grads = jax.grad(loss_of(net, state), has_aux=True)(params)[0]
    norms = value_grad_norms(loss_of(net, state), params, len(X)).norms
    chain = [grads["first"], grads["hidden"][0], grads["hidden"][1], grads["output"]]
    for leaf in ("kernel", "bias"):
        expected = [np.linalg.norm(layer["dense"][leaf]) for layer in chain]
        np.testing.assert_allclose(getattr(norms, leaf), expected, rtol=1e-10)


def test_an_orthogonal_linear_network_keeps_the_cotangent(x64, key):
    weights = initializers.by_name("orthogonal")
    net = networks.mlp(6, depth=40, width=6, activation="identity", weights=weights)
    params, state = net.init(key, jnp.asarray(X))
    cotangent = value_grad_norms(loss_of(net, state), params, len(X)).norms.cotangent
    np.testing.assert_allclose(cotangent, cotangent[-1], rtol=1e-10)


def test_float32_shows_a_signal_whose_square_underflows(key):
    net = networks.mlp(3, depth=30, width=6, activation="sigmoid")
    params, state = net.init(key, jnp.asarray(X, jnp.float32))
    narrow = value_grad_norms(loss_of(net, state, np.float32(X)), params, len(X)).norms.cotangent
    with jax.enable_x64(True):
        wide_params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        wide = value_grad_norms(loss_of(net, state), wide_params, len(X)).norms.cotangent
        wide = np.asarray(wide)
    assert 0 < wide[0] < 1e-19  # its square, 1e-38 and less, is 0 in float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-5, 1.0, 1e30])
def test_norm_is_exact_wherever_the_numbers_are(size):
    x = np.float32(size) * np.array([[3, 4], [0, 12]], np.float32)
    expected = np.linalg.norm(x.astype(np.float64))
    if size == 1e-42:  # denormal: XLA's CPU flushes these to zero, and the norm says so
        expected = float(norm(jnp.asarray(x)))
        assert expected in (0.0, pytest.approx(13e-42, rel=1e-2))
        return
    assert float(norm(jnp.asarray(x))) == pytest.approx(expected, rel=1e-6)
    over_rows = np.linalg.norm(x.astype(np.float64), axis=0)
    np.testing.assert_allclose(norm(jnp.asarray(x), 0), over_rows, rtol=1e-6)


def test_norm_of_nothing_infinity_and_nan():
    assert float(norm(jnp.zeros(3))) == 0
    assert float(norm(jnp.array([1.0, jnp.inf]))) == np.inf
    assert np.isnan(norm(jnp.array([1.0, jnp.nan])))
    assert norm(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32


PUBLISHED = {  # Nielsen 2015, ch. 5, fig/initial_gradient.json and norms_during_training_*.json
    2: [0.06574134326503182, 0.3092184942703712],
    3: [0.011838212272121293, 0.05996519457449515, 0.28314239285488185],
    4: [0.0029752663545292526, 0.017076665445425132, 0.06953924167660484, 0.28513893545173896],
}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_the_textbooks_learning_speeds_lie_among_ours(depth):
    """784-30-...-10 sigmoid networks on the first 1,000 MNIST images, before training."""
    folder = real_data("mnist")
    x = data.read_idx(folder / "train-images-idx3-ubyte.gz", 3)[:1000].astype(np.float32) / 256
    labels = data.read_idx(folder / "train-labels-idx1-ubyte.gz", 1)[:1000].astype(np.int32)
    weights = initializers.scaled(1.0, 1.0)
    net = networks.mlp(10, depth=depth, width=30, activation="sigmoid", weights=weights)

    def bias_norms(key):
        params, state = net.init(key, jnp.asarray(x))

        def loss(params):
            outputs = net.apply(params, state, jnp.asarray(x)).output
            return losses.LOSSES["binary_cross_entropy"](outputs, jnp.asarray(labels)), None

        return value_grad_norms(loss, params, len(x)).norms.bias[:depth]

    norms = jax.lax.map(jax.jit(bias_norms), jax.random.split(jax.random.key(1), 200))
    low, high = np.quantile(norms, [0.025, 0.975], axis=0)
    assert (low < PUBLISHED[depth]).all(), (low, PUBLISHED[depth])
    assert (PUBLISHED[depth] < high).all(), (high, PUBLISHED[depth])
    assert (np.diff(norms, axis=1) > 0).all(), "in every seed the later layer learns faster"
    ratio = np.exp(np.mean(np.diff(np.log(norms), axis=1)))
    assert ratio == pytest.approx(4.9, rel=0.1)  # mean-field: 1 / sqrt(chi_1) = 4.88
    assert layers.ACTIVATIONS["sigmoid"].largest_slope == 0.25
