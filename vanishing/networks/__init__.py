"""Networks: whole architectures, each a few lines of the layer algebra."""

from vanishing.networks.mlp import mlp

__all__ = ["mlp"]
