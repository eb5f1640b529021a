"""The epsilon of each framework's normalisations, and how they compute the variance."""

import math
from typing import NamedTuple

from vanishing.facts import versions


class Norm(NamedTuple):
    """The defaults of a normalisation."""

    framework: str
    layer: str
    epsilon: float
    fast: bool  # is the variance E[x^2] - E[x]^2, which is rounding where the mean is large?
    version: str
    source: str = "the default of its argument"


NORMS = (
    Norm("Flax", "nnx.LayerNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "nnx.RMSNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "nnx.GroupNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "nnx.BatchNorm", 1e-5, True, versions.FLAX),
    Norm("Flax", "linen.LayerNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "linen.RMSNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "linen.GroupNorm", 1e-6, True, versions.FLAX),
    Norm("Flax", "linen.BatchNorm", 1e-5, True, versions.FLAX),
    Norm("Equinox", "nn.LayerNorm", 1e-5, False, versions.EQUINOX),
    Norm("Equinox", "nn.RMSNorm", 1e-5, False, versions.EQUINOX),
    Norm("Equinox", "nn.GroupNorm", 1e-5, False, versions.EQUINOX),
    Norm("Haiku", "LayerNorm", 1e-5, False, versions.HAIKU),
    Norm("Haiku", "RMSNorm", 1e-5, False, versions.HAIKU),
    Norm("Haiku", "BatchNorm", 1e-5, True, versions.HAIKU),
    Norm("Keras", "layers.LayerNormalization", 1e-3, False, versions.KERAS),
    Norm("Keras", "layers.BatchNormalization", 1e-3, False, versions.KERAS),
    Norm("Keras", "layers.RMSNormalization", 1e-6, False, versions.KERAS),
    Norm("PyTorch", "nn.LayerNorm", 1e-5, False, versions.TORCH),
    Norm("PyTorch", "nn.BatchNorm1d", 1e-5, False, versions.TORCH),
    Norm("JAX", "nn.standardize", 1e-5, True, versions.JAX),
)
"""Normalisations by default."""


def of_epsilon(epsilon: float) -> tuple[str, ...]:
    """The frameworks of which a normalisation has this epsilon by default.

    >>> of_epsilon(1e-3), of_epsilon(1e-6)
    (('Keras',), ('Flax', 'Keras'))
    """
    rows = (row for row in NORMS if math.isclose(row.epsilon, epsilon, rel_tol=1e-3))
    return tuple(dict.fromkeys(row.framework for row in rows))
