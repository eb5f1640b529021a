"""The layer algebra: layers as triples of pure functions, and what combines them."""

from vanishing.layers.activation import ACTIVATIONS, Activation, activation, facts_of
from vanishing.layers.base import (
    Applied,
    Layer,
    Variables,
    checkpoint,
    output_spec,
    propagate,
    stateless,
)
from vanishing.layers.combine import Stacked, depth_axes, repeat, serial
from vanishing.layers.linear import conv, dense, flatten
from vanishing.layers.norm import batch_norm, dropout, layer_norm
from vanishing.layers.recurrent import gru, lstm, rnn
from vanishing.layers.residual import highway, residual
from vanishing.layers.scalar import multiplier, shift

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Applied",
    "Layer",
    "Stacked",
    "Variables",
    "activation",
    "batch_norm",
    "checkpoint",
    "conv",
    "dense",
    "depth_axes",
    "dropout",
    "facts_of",
    "flatten",
    "gru",
    "highway",
    "layer_norm",
    "lstm",
    "multiplier",
    "output_spec",
    "propagate",
    "repeat",
    "residual",
    "rnn",
    "serial",
    "shift",
    "stateless",
]
