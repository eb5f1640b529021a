"""Networks: whole architectures, each a few lines of the layer algebra."""

from vanishing.networks.blocks import BLOCKS, block
from vanishing.networks.mlp import mlp
from vanishing.networks.recurrent import CELLS, recurrent_layer, rnn
from vanishing.networks.residual import residual_mlp

__all__ = ["BLOCKS", "CELLS", "block", "mlp", "recurrent_layer", "residual_mlp", "rnn"]
