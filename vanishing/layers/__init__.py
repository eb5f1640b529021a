"""The layer algebra: layers of pure functions, and the functions that combine them."""

from vanishing.layers.activations import ACTIVATIONS, Activation, activation, facts_of
from vanishing.layers.base import (
    Applied,
    Chain,
    Gated,
    Layer,
    Structure,
    Sum,
    Variables,
    checkpoint,
    output_spec,
    propagate,
    stateless,
)
from vanishing.layers.combine import Stacked, depth_axes, repeat, serial
from vanishing.layers.linear import conv, dense, flatten
from vanishing.layers.norm import batch_norm, dropout, group_norm, layer_norm, rms_norm
from vanishing.layers.pool import avg_pool, global_avg_pool, max_pool
from vanishing.layers.recurrent import gru, lstm, rnn
from vanishing.layers.scalar import multiplier, shift
from vanishing.layers.shortcuts import highway, residual
from vanishing.layers.standardized import weight_standardized

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Applied",
    "Chain",
    "Gated",
    "Layer",
    "Stacked",
    "Structure",
    "Sum",
    "Variables",
    "activation",
    "avg_pool",
    "batch_norm",
    "checkpoint",
    "conv",
    "dense",
    "depth_axes",
    "dropout",
    "facts_of",
    "flatten",
    "global_avg_pool",
    "group_norm",
    "gru",
    "highway",
    "layer_norm",
    "lstm",
    "max_pool",
    "multiplier",
    "output_spec",
    "propagate",
    "repeat",
    "residual",
    "rms_norm",
    "rnn",
    "serial",
    "shift",
    "stateless",
    "weight_standardized",
]
