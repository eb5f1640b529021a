"""What the kernels of each framework's default layers, and of JAX's initialisers, begin with."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vanishing.facts import versions


class Kernel(NamedTuple):
    """How a layer draws its kernel by default."""

    framework: str
    layer: str
    scale: float  # standard deviation times the square root of `of`
    of: str  # "fan_in", "fan_avg" (mean of fan_in and fan_out), "fan_max", or "1"
    law: str  # "normal", "truncated normal", "uniform", "half uniform" (from 0) or "orthogonal"
    source: str
    version: str
    bias: str = "zero"  # or "as the kernel", or "" where there is none

    def relative(self, fan_in: int, fan_out: int) -> float:
        """The standard deviation that it draws with, times sqrt(fan_in).

        >>> KERNELS[0].relative(64, 256), KERNELS[8].relative(64, 192)
        (1.0, 0.7071067811865476)
        """
        size = {
            "fan_in": fan_in,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_max": max(fan_in, fan_out),
            "1": 1,
        }[self.of]
        return self.scale * math.sqrt(fan_in / size)


_TRUNCATED = 0.8796  # standard deviation of a standard normal that is cut at -2 and 2
_LECUN = "LeCun et al. 1998, section 4.6"
_GLOROT = "Glorot & Bengio 2010, section 4.2"
_HE = "He et al. 2015, section 2.2"
_INITIALIZER = "jax.nn.initializers"


def _jax(name: str, scale: float, of: str, law: str, source: str = _INITIALIZER) -> Kernel:
    return Kernel("JAX", name, scale, of, law, source, versions.JAX, bias="")


def _flax(layer: str) -> Kernel:
    law, source = "truncated normal", "its default kernel_init, lecun_normal"
    return Kernel("Flax", layer, 1.0, "fan_in", law, source, versions.FLAX)


def _bounded(framework: str, layer: str, source: str, version: str) -> Kernel:
    scale = 1 / math.sqrt(3)  # of U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    return Kernel(framework, layer, scale, "fan_in", "uniform", source, version, "as the kernel")


def _haiku(layer: str) -> Kernel:
    law, source = "truncated normal", "its default w_init, whose cut is not corrected"
    return Kernel("Haiku", layer, _TRUNCATED, "fan_in", law, source, versions.HAIKU)


def _keras(layer: str) -> Kernel:
    source = "its default kernel_initializer, glorot_uniform"
    return Kernel("Keras", layer, 1.0, "fan_avg", "uniform", source, versions.KERAS)


KERNELS = (
    _flax("nnx.Linear"),
    _flax("nnx.Conv"),
    _flax("linen.Dense"),
    _flax("linen.Conv"),
    _bounded("Equinox", "nn.Linear", "equinox.nn.Linear", versions.EQUINOX),
    _bounded("Equinox", "nn.Conv2d", "equinox.nn.Conv", versions.EQUINOX),
    _haiku("Linear"),
    _haiku("Conv2D"),
    _keras("layers.Dense"),
    _keras("layers.Conv2D"),
    _bounded("PyTorch", "nn.Linear", "torch.nn.Linear.reset_parameters", versions.TORCH),
    _bounded("PyTorch", "nn.Conv2d", "torch.nn.Conv2d.reset_parameters", versions.TORCH),
    _jax("lecun_normal", 1.0, "fan_in", "truncated normal", _LECUN),
    _jax("lecun_uniform", 1.0, "fan_in", "uniform", _LECUN),
    _jax("he_normal", math.sqrt(2), "fan_in", "truncated normal", _HE),
    _jax("he_uniform", math.sqrt(2), "fan_in", "uniform", _HE),
    _jax("glorot_normal", 1.0, "fan_avg", "truncated normal", _GLOROT),
    _jax("glorot_uniform", 1.0, "fan_avg", "uniform", _GLOROT),
    _jax("orthogonal", 1.0, "fan_max", "orthogonal", "Saxe et al. 2014"),
    _jax("normal", 0.01, "1", "normal"),
    _jax("truncated_normal", 0.01 * _TRUNCATED, "1", "truncated normal"),
    _jax("uniform", 0.01 / math.sqrt(12), "1", "half uniform"),
)
"""Kernels as they are drawn by default."""

STANDARD_ERRORS = 4.0
"""Of a kernel's size, that are allowed."""

# Of each law: sqrt((kurtosis - 1) / 4), times 1 / sqrt(n) the standard error of a root mean square
# over n numbers; and its largest number over its root mean square.
_SPREAD = {"uniform": 0.447, "half uniform": 0.447, "truncated normal": 0.585, "orthogonal": 0.0}
_NORMAL = 0.7072
_PEAK = {"uniform": 3**0.5, "half uniform": 3**0.5, "truncated normal": 2 / _TRUNCATED}

FEWEST = 1024
"""Numbers of a kernel from which on their largest tells one law from another."""


class Drawn(NamedTuple):
    """A kernel as it is: its size, and how many numbers it has."""

    scale: float  # root mean square times sqrt(fan_in)
    fan_in: int
    fan_out: int
    peak: float = math.nan  # largest over root mean square, where it is known


def drawn_as(kernels: Sequence[Drawn]) -> tuple[Kernel, ...]:
    """The rows that could have drawn all of these kernels, within what chance makes of them.

    >>> [row.framework for row in drawn_as([Drawn(0.577, 256, 256, 1.73)])]
    ['Equinox', 'Equinox', 'PyTorch', 'PyTorch']
    """
    return tuple(row for row in KERNELS if kernels and all(_fits(row, k) for k in kernels))


def _fits(row: Kernel, kernel: Drawn) -> bool:
    count = kernel.fan_in * kernel.fan_out
    error = _SPREAD.get(row.law, _NORMAL) / math.sqrt(count)
    relative = kernel.scale / row.relative(kernel.fan_in, kernel.fan_out)
    if abs(relative - 1) > STANDARD_ERRORS * error + 1e-3:
        return False
    if math.isnan(kernel.peak) or count < FEWEST:
        return True
    # No number is beyond the end of a law, and of so many one is close to it.
    end = _PEAK.get(row.law)
    largest = kernel.peak * relative
    return 0.95 * end < largest < 1.001 * end if end else kernel.peak > _LEAST_OF_NORMAL


_LEAST_OF_NORMAL = 2.4
"""Largest of so many normal numbers, once in more than ten million draws."""
