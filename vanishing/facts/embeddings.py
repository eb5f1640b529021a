"""The size with which each framework's embedding begins."""

import math
from typing import NamedTuple

from vanishing.facts import versions


class Embedding(NamedTuple):
    """How an embedding is drawn by default."""

    framework: str
    layer: str
    std: float
    per: str  # "1", or "sqrt(features)", by which the standard deviation is divided
    source: str
    version: str


_TRUNCATED = "its default w_init: a truncated normal, whose cut is not corrected"

EMBEDDINGS = (
    Embedding("Flax", "nnx.Embed", 1.0, "sqrt(features)", "nnx.Embed", versions.FLAX),
    Embedding("Flax", "linen.Embed", 1.0, "sqrt(features)", "linen.Embed", versions.FLAX),
    Embedding("Equinox", "nn.Embedding", 1.0, "1", "equinox.nn.Embedding", versions.EQUINOX),
    Embedding("Haiku", "Embed", 0.8796, "1", _TRUNCATED, versions.HAIKU),
    Embedding("Keras", "layers.Embedding", 0.0289, "1", "U(-0.05, 0.05)", versions.KERAS),
    Embedding("PyTorch", "nn.Embedding", 1.0, "1", "torch.nn.Embedding", versions.TORCH),
)
"""Embeddings as they are drawn by default."""


def embedding_std(framework: str, features: int) -> float:
    """The standard deviation of a framework's embedding of so many features.

    >>> embedding_std("Flax", 256), embedding_std("Keras", 256)
    (0.0625, 0.0289)
    """
    row = next(row for row in EMBEDDINGS if row.framework == framework)
    return row.std / (1 if row.per == "1" else math.sqrt(features))
