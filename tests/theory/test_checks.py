"""The check of a layer's `propagate`: it passes right ones, and names what is off in others."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_refuses, slow
from vanishing import layers, meanfield, theory

FACTOR = 0.5
RIGHT = {
    "dense": layers.dense(128),
    "relu": layers.activation("relu"),
    "tanh": layers.activation("tanh"),
    "layer norm": layers.layer_norm(),
    "dropout": layers.dropout(0.3),
    "block": layers.residual(layers.serial(layers.activation("tanh"), layers.dense(256))),
    "batch norm": layers.batch_norm(),
    "multiplier": layers.multiplier(FACTOR),
}


@pytest.mark.parametrize("name", ["relu", "block", "multiplier", *slow(*RIGHT)])
def test_the_layers_of_the_library_pass(name):
    checked = theory.check_layer(RIGHT[name])
    assert checked.agrees, checked


def halved(**wrong):
    """A layer of one's own that multiplies by 1/2, with one number of its theory wrong."""

    def propagate(signal):
        square = FACTOR**2
        right = {"q": square, "difference": square * signal.decorrelation}
        right |= {"mean": FACTOR * signal.relative_mean, "gain": square} | wrong
        right["gain"] = meanfield.linear_gain(signal, right["gain"])
        return signal.scaled(**right)

    return layers.stateless(lambda x: FACTOR * x, propagate)


@pytest.mark.parametrize(
    ("wrong", "off"),
    [
        ({}, ()),
        ({"q": 0.5}, ("q", "correlation")),
        ({"difference": 0.2}, ("correlation",)),
        ({"mean": 0.3}, ("mean",)),
        ({"gain": 1.0}, ("gain",)),
    ],
    ids=["right", "q", "difference", "mean", "gain"],
)
def test_what_is_wrong_in_a_layer_of_ones_own_is_named(wrong, off):
    checked = theory.check_layer(halved(**wrong))
    assert checked.off == off
    assert checked.agrees == (not off)
    assert str(checked).count("OFF") == len(off)


def test_a_layer_of_ones_own_must_say_its_gain():
    layer = layers.stateless(
        lambda x: FACTOR * x, lambda signal: signal.scaled(FACTOR**2, FACTOR**2, FACTOR)
    )
    with pytest.raises(TypeError, match="'gain'"):
        theory.check_layer(layer)


def test_other_inputs_are_followed_as_well():
    checked = theory.check_layer(layers.activation("tanh"), q=4.0, correlation=0.0)
    assert checked.agrees
    assert checked.measured[0] == pytest.approx(np.mean(np.tanh(2 * _normal()) ** 2), rel=0.05)


def _normal():
    return np.random.default_rng(0).standard_normal(100_000)


def test_what_cannot_be_checked_is_refused():
    assert_refuses(lambda: theory.check_layer(layers.stateless(jnp.tanh)), "no mean-field form")
    assert_refuses(lambda: theory.check_layer(layers.dense(3), correlation=-0.5), "at least 0")
