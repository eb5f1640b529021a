"""The layer algebra: layers as triples of pure functions, and what combines them."""

from vanishing.layers.activation import ACTIVATIONS, Activation, activation
from vanishing.layers.base import Applied, Layer, Variables, output_spec, stateless
from vanishing.layers.combine import Stacked, depth_axes, repeat, residual, serial
from vanishing.layers.linear import dense, flatten

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Applied",
    "Layer",
    "Stacked",
    "Variables",
    "activation",
    "dense",
    "depth_axes",
    "flatten",
    "output_spec",
    "repeat",
    "residual",
    "serial",
    "stateless",
]
