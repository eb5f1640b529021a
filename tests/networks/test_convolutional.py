"""Convolutional networks: their shapes as published, their parts, and what their kernels do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from tests.helpers import assert_refuses, slow
from vanishing import layers, networks
from vanishing.networks.convolutional import subsample


def test_the_textbook_network_equals_its_formula(key):
    x = jax.random.normal(key, (2, 6, 6, 1))
    net = networks.cnn(3, channels=2)
    params, state = net.init(key, x)
    kernel = np.asarray(params["conv"]["kernel"])
    features = np.zeros((2, 3, 3, 2))
    for n in range(2):
        for c in range(2):
            image = correlate2d(np.asarray(x[n, :, :, 0]), kernel[:, :, 0, c], mode="same")
            features[n, :, :, c] = np.maximum(image, 0).reshape(3, 2, 3, 2).max((1, 3))
    expected = features.reshape(2, 18) @ np.asarray(params["output"]["dense"]["kernel"])
    np.testing.assert_allclose(net.apply(params, state, x).output, expected, rtol=1e-4, atol=1e-5)


def kernels(params):
    return [
        leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    ]


def weights_of(depth, kind):
    """Layers with weights and their parameters, without norms and biases."""
    net = networks.resnet(10, depth=depth, kind=kind)
    spec = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = kernels(jax.eval_shape(net.init, jax.random.key(0), spec).params)
    counts = [shape[0] if len(shape) == 5 else 1 for shape in shapes]
    return sum(counts), sum(int(np.prod(shape)) for shape in shapes)


@pytest.mark.parametrize(("depth", "million"), [*slow((20, 0.27), (56, 0.85)), (110, 1.7)])
def test_residual_networks_have_the_published_layers_and_parameters(depth, million):
    """He et al., CVPR 2016, table 6; their plain twins have as many, as option A has none."""
    layers_with_weights, parameters = weights_of(depth, "post_activation")
    assert layers_with_weights == depth
    assert round(parameters / 1e6, 2 if million < 1 else 1) == million
    assert weights_of(depth, "plain") == (layers_with_weights, parameters)


@pytest.mark.parametrize("kind", ["fixup", *slow(*(k for k in networks.BLOCKS if k != "fixup"))])
def test_every_kind_of_block_makes_one_with_finite_gradients(key, kind):
    norm = None if kind == "fixup" else layers.group_norm(2)
    net = networks.resnet(3, depth=8, width=4, kind=kind, norm=norm)
    x = jax.random.normal(key, (2, 8, 8, 1))
    params, state = jax.jit(net.init)(key, x)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(1 + net.apply(p, state, x).output))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert grads["output"]["dense"]["bias"].all()


def test_a_shortcut_takes_every_second_place_and_fills_with_zeros(key):
    x = jax.random.normal(key, (2, 4, 6, 3))
    output = subsample(5).apply({}, {}, x).output
    np.testing.assert_array_equal(output[..., :3], x[:, ::2, ::2])
    assert not output[..., 3:].any()
    assert output.shape == (2, 2, 3, 5)


def test_a_vanilla_network_keeps_every_direction_of_its_gradient(x64, key):
    """Delta-orthogonal kernels: all singular values of a circular convolution are equal."""
    net = networks.vanilla_cnn(3, depth=3, channels=4, reductions=0, activation="identity")
    x = jax.random.normal(key, (1, 4, 4, 1))
    params, state = jax.jit(net.init)(key, x)
    conv = layers.conv(4, (3, 3), padding="CIRCULAR")

    def circular_conv(h):
        return conv.apply(params["hidden"][0]["conv"], {}, h.reshape(1, 4, 4, 4)).output.ravel()

    singular = np.linalg.svd(jax.jit(jax.jacobian(circular_conv))(jnp.zeros(64)), compute_uv=False)
    np.testing.assert_allclose(singular, 1.05**0.5, rtol=1e-6)  # sigma_w of the default
    assert jax.jit(net.apply)(params, state, x).output.shape == (1, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.resnet(10, depth=10), "depth 10; it must be 6 n + 2"),
        (lambda: networks.resnet(10, kind="fixup"), "fixup replaces; leave it out"),
        (lambda: networks.vanilla_cnn(10, depth=0), "vanilla_cnn has depth 0"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    assert_refuses(make, message)
