"""What the LSTM cells of each framework begin with: the bias of their forget gate, their matrix."""

import math
from typing import NamedTuple

from vanishing.facts import versions


class Cell(NamedTuple):
    """How an LSTM begins by default."""

    framework: str
    cell: str
    bias: float  # mean of the parameter in front of the forget gate
    added: float  # what the cell adds to it in its code
    spread: float  # standard deviation of the parameter times sqrt(units)
    recurrent: float  # standard deviation of a gate's recurrent matrix times sqrt(units)
    source: str
    version: str


_U = 1 / math.sqrt(3)  # standard deviation of U(-1, 1)
_JOINT = "one matrix for input and state: its fan_in is their sum"

CELLS = (
    Cell("Flax", "nnx.LSTMCell", 0, 0, 0, 1.0, "orthogonal by gate", versions.FLAX),
    Cell("Flax", "nnx.OptimizedLSTMCell", 0, 0, 0, 0.5, "orthogonal, all gates", versions.FLAX),
    Cell("Flax", "linen.LSTMCell", 0, 0, 0, 1.0, "orthogonal by gate", versions.FLAX),
    Cell("Flax", "linen.OptimizedLSTMCell", 0, 0, 0, 1.0, "orthogonal by gate", versions.FLAX),
    Cell("Haiku", "LSTM", 0, 1, 0, 0.622, _JOINT, versions.HAIKU),
    Cell("Equinox", "nn.LSTMCell", 0, 0, _U, _U, "equinox.nn.LSTMCell", versions.EQUINOX),
    Cell("Keras", "layers.LSTM", 1, 0, 0, 0.5, "orthogonal, all gates", versions.KERAS),
    Cell("PyTorch", "nn.LSTM", 0, 0, _U * math.sqrt(2), _U, "two biases, added", versions.TORCH),
)
"""LSTM cells, of as many units as inputs."""


def forget_bias(framework: str) -> float:
    """What is in front of the forget gate of a framework's LSTM at the start, on average.

    >>> forget_bias("Keras"), forget_bias("Haiku"), forget_bias("Flax")
    (1, 1, 0)
    """
    row = next(row for row in CELLS if row.framework == framework)
    return row.bias + row.added
