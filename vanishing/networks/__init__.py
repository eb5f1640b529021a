"""Networks: whole architectures, each a few lines of the layer algebra, and those of Flax."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing.networks.blocks import BLOCKS, block
    from vanishing.networks.convolutional import cnn, plain_cnn, resnet, vanilla_cnn
    from vanishing.networks.flax_modules import from_flax
    from vanishing.networks.linen_modules import to_linen
    from vanishing.networks.perceptrons import mlp
    from vanishing.networks.recurrent import CELLS, recurrent_layer, rnn
    from vanishing.networks.residual import residual_mlp

__getattr__, __dir__ = attach(
    __name__,
    {
        "BLOCKS": "blocks",
        "CELLS": "recurrent",
        "block": "blocks",
        "cnn": "convolutional",
        "from_flax": "flax_modules",
        "mlp": "perceptrons",
        "plain_cnn": "convolutional",
        "recurrent_layer": "recurrent",
        "residual_mlp": "residual",
        "resnet": "convolutional",
        "rnn": "recurrent",
        "to_linen": "linen_modules",
        "vanilla_cnn": "convolutional",
    },
)
__all__ = [
    "BLOCKS",
    "CELLS",
    "block",
    "cnn",
    "from_flax",
    "mlp",
    "plain_cnn",
    "recurrent_layer",
    "residual_mlp",
    "resnet",
    "rnn",
    "to_linen",
    "vanilla_cnn",
]
