"""Networks: whole architectures, each a few lines of the layer algebra."""

from vanishing.networks.blocks import BLOCKS, block
from vanishing.networks.convolutional import cnn, plain_cnn, resnet, vanilla_cnn
from vanishing.networks.perceptrons import mlp
from vanishing.networks.recurrent import CELLS, recurrent_layer, rnn
from vanishing.networks.residual import residual_mlp

__all__ = [
    "BLOCKS",
    "CELLS",
    "block",
    "cnn",
    "mlp",
    "plain_cnn",
    "recurrent_layer",
    "residual_mlp",
    "resnet",
    "rnn",
    "vanilla_cnn",
]
