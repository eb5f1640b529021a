"""Linen modules from layers against the layers."""

import functools
import zlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, unchecked
from vanishing import layers, networks

FEATURES, CLASSES, BATCH = 6, 3, 8


@pytest.fixture(autouse=True)
def _flax_broadcasts():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (BATCH, FEATURES))


def square(output):
    return jnp.mean(output**2)


def value_and_grad(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def nested_layer():
    """Parameters in dicts, tuples and stacks, running statistics and dropout."""
    block = layers.serial(dense=layers.dense(5), norm=layers.batch_norm())
    return layers.serial(
        layers.dense(5),
        layers.repeat(layers.residual(block), 3),
        layers.serial(drop=layers.dropout(0.5), prelu=layers.activation("prelu")),
        layers.dense(CLASSES),
    )


class DrawnKey(nn.Module):
    """The key that the first module of this place draws from a stream."""

    stream: str

    @nn.compact
    def __call__(self, x):
        return self.make_rng(self.stream)


def test_a_linen_module_of_a_layer_computes_what_the_layer_computes(key, x):
    layer, module = nested_layer(), networks.to_linen(nested_layer())
    variables = jax.jit(module.init)(key, x)
    own_key = DrawnKey("params").apply({}, x, rngs={"params": key})
    params, state = jax.jit(layer.init)(own_key, x)
    chex.assert_trees_all_equal(jax.tree.leaves(variables["params"]), jax.tree.leaves(params))
    chex.assert_trees_all_equal(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(state))
    assert set(variables["params"]) == {"layers_0", "layers_1", "layers_2", "layers_3"}
    kernels = jax.tree.leaves(variables["params"]["layers_1"])
    assert {leaf.shape[0] for leaf in kernels} == {3}

    expected = jax.jit(layer.apply)(params, state, x).output
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, rtol=1e-6)

    own_key = DrawnKey("dropout").apply({}, x, rngs={"dropout": key})

    def flax_loss(params):
        output, updates = module.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return square(output), (output, updates["batch_stats"])

    def loss(params):
        output, new_state = layer.apply(params, state, x, own_key, train=True)
        return square(output), (output, new_state)

    expected = value_and_grad(loss)(params)
    actual = value_and_grad(flax_loss)(variables["params"])
    chex.assert_trees_all_close(
        jax.tree.leaves(actual), jax.tree.leaves(expected), rtol=1e-5, atol=1e-7
    )


def test_the_way_there_and_back_is_the_layer(key, x):
    layer, back = nested_layer(), networks.from_flax(networks.to_linen(nested_layer()))
    params, state = jax.jit(back.init)(key, x)
    structure = [jax.tree.structure(tree) for tree in jax.eval_shape(layer.init, key, x)]
    own = [
        tree.unflatten(jax.tree.leaves(leaves))
        for tree, leaves in zip(structure, (params, state), strict=True)
    ]
    stream = jax.random.fold_in(key, zlib.crc32(b"dropout"))
    dropout_key = DrawnKey("dropout").apply({}, x, rngs={"dropout": stream})
    for train_mode in (False, True):
        actual = jax.jit(back.apply, static_argnums=4)(params, state, x, key, train_mode)
        expected = jax.jit(layer.apply, static_argnums=4)(*own, x, dropout_key, train_mode)
        chex.assert_trees_all_close(
            jax.tree.leaves(actual), jax.tree.leaves(expected), rtol=1e-6, atol=1e-7
        )
    with pytest.raises(ValueError, match="dropout is random in training, but got no key"):
        back.apply(params, state, x, train=True)


def test_a_layer_works_within_a_linen_module(key, x):
    class Outer(nn.Module):
        def setup(self):
            self.trunk = networks.to_linen(nested_layer())
            self.head = networks.to_linen(layers.dense(2))

        def __call__(self, x, train=False):
            return nn.jit(lambda head, x: head(x))(self.head, self.trunk(x, train))

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = networks.to_linen(layers.dense(5), name="first")(x)
            x = networks.to_linen(layers.activation("relu"))(x)
            return networks.to_linen(layers.dense(2))(x)

    variables = Compact().init(key, x)
    assert set(variables["params"]) == {"first", "LayerModule_1"}
    hidden = jax.nn.relu(x @ variables["params"]["first"]["kernel"])
    expected = hidden @ variables["params"]["LayerModule_1"]["kernel"]
    output = jax.jit(Compact().apply)(variables, x)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    table = Compact().tabulate(key, x, console_kwargs={"width": 200, "force_terminal": False})
    assert "first" in table
    assert "kernel: float32[6,5]" in table

    variables = jax.jit(Outer().init)(key, x)
    assert set(variables["params"]) == {"trunk", "head"}
    apply = functools.partial(Outer().apply, train=True, mutable=["batch_stats"])
    output, updates = jax.jit(apply)(variables, x, rngs={"dropout": key})
    chex.assert_trees_all_equal_shapes(updates["batch_stats"], variables["batch_stats"])
    assert output.shape == (BATCH, 2)


def test_variables_that_do_not_fit_are_refused(key, x):
    module = networks.to_linen(layers.serial(first=layers.dense(3)))
    variables = module.init(key, x)
    assert_refuses(lambda: module.apply({"params": {}}, x), "params.first.")
    assert_refuses(
        lambda: module.apply(variables, x[:, :2]), "params.first.kernel has shape (6, 3)", "(8, 2)"
    )
    assert_refuses(lambda: unchecked(networks.to_linen)(3), "layer is 3", "must be a layer")
