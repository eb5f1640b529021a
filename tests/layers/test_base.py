import jax
import jax.numpy as jnp
import pytest

from tests.helpers import assert_refuses
from vanishing import layers
from vanishing.meanfield import signal


def test_a_spec_is_enough_to_initialise_and_to_find_the_output():
    net = layers.serial(layers.dense(5), layers.activation("tanh"), layers.dense(3))
    spec = jax.ShapeDtypeStruct((7, 2), jnp.float32)
    variables = net.init(jax.random.key(0), spec)
    assert layers.output_spec(net, variables, spec).shape == (7, 3)
    x = jnp.ones(spec.shape)
    assert net.apply(*variables, x).output.shape == (7, 3)


def test_stateless_has_no_parameters_and_leaves_the_state_alone(key):
    layer = layers.stateless(lambda x: 2 * x)
    assert layer.init(key, jnp.ones(3)) == ({}, {})
    output, state = layer.apply({}, {"kept": 1}, jnp.ones(3))
    assert output.tolist() == [2, 2, 2]
    assert state == {"kept": 1}


def test_a_layer_without_a_mean_field_reading_is_named():
    opaque = layers.stateless(jnp.sort)
    net = layers.serial(first=layers.dense(3), sorted=opaque)
    assert_refuses(
        lambda: layers.propagate(net, signal(shape=(3,))),
        "sorted: no mean-field form of this layer is known",
    )
    assert layers.propagate(net._replace(propagate=lambda s: s), signal(4.0)).q == 4


def test_a_layer_is_no_argument_of_jit_but_can_be_closed_over(key):
    net = layers.dense(3)
    params, state = net.init(key, jnp.ones(2))
    with pytest.raises(TypeError):
        jax.jit(lambda layer, x: layer.apply(params, state, x).output)(net, jnp.ones(2))
    assert jax.jit(lambda x: net.apply(params, state, x).output)(jnp.ones(2)).shape == (3,)


def test_a_layer_names_the_layers_that_it_is_composed_of():
    dense, tanh = layers.dense(2), layers.activation("tanh")
    chain = layers.serial(dense, tanh)
    assert dense.structure is None
    assert chain.structure == layers.Chain((dense, tanh))
    assert layers.serial(a=dense, b=tanh).structure == layers.Chain((dense, tanh))
    assert layers.repeat(chain, 3).structure == layers.Chain((chain,))
    assert layers.checkpoint(chain).structure == chain.structure
    assert layers.residual(dense, shortcut=tanh).structure == layers.Sum((tanh, dense))
    assert layers.residual(dense).structure.paths[0].structure == layers.Chain(())
    highway = layers.highway(dense, chain, shortcut=tanh)
    assert highway.structure == layers.Gated((dense, tanh), chain)
