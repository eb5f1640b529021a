"""Networks: whole architectures, each a few lines of the layer algebra."""

from vanishing.networks.blocks import BLOCKS, block
from vanishing.networks.mlp import mlp
from vanishing.networks.residual import residual_mlp

__all__ = ["BLOCKS", "block", "mlp", "residual_mlp"]
