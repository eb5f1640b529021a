"""Cost of a pass through a dense network, counted from its equations and as XLA reports it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from vanishing import _arguments


class Work(NamedTuple):
    """Arithmetic and memory traffic of a pass."""

    flops: float  # floating-point operations; a product and its sum are two
    bytes: float  # read from and written to memory

    def __sub__(self, other: "Work") -> "Work":
        """Difference between two passes."""
        return Work(self.flops - other.flops, self.bytes - other.bytes)


@_arguments.checked
def forward_work(batch: int, widths: Sequence[int], itemsize: int = 4) -> Work:
    """Work of the forward pass: `z = a W + b` and `a = f(z)` in every layer.

    The product takes 2 batch fan_in fan_out operations, adding b and applying f one a number each.
    The product reads a and W and writes z; the rest reads z and b and writes z and a, once each.

    Args:
      batch: examples.
      widths: of the input and of every layer.
      itemsize: bytes of a number.

    >>> forward_work(batch=1, widths=(3, 2)).flops  # 2 * 3 * 2 + 2 + 2
    16
    """
    _arguments.whole("the number of widths", len(widths), 2)
    flops = size = 0
    for fan_in, fan_out in itertools.pairwise(widths):
        flops += 2 * batch * fan_in * fan_out + 2 * batch * fan_out
        size += batch * fan_in + fan_in * fan_out + 4 * batch * fan_out + fan_out
    return Work(flops, size * itemsize)


@_arguments.checked
def backward_work(batch: int, widths: Sequence[int], itemsize: int = 4) -> Work:
    """Work of the backward pass: weight gradients, and the error backwards from layer 2 on.

    `a^T delta` takes as many operations as the layer's forward product, and so does `delta W^T`, so
    that the backward pass costs about twice the forward pass. The slopes and their products take
    two for each number, the bias gradient one. Each equation reads its operands and writes its
    result once: a and delta to dC/dW; delta and W to the error of a; z to the slope; the slope and
    that error to delta; delta to dC/db.

    Args:
      batch: examples.
      widths: of the input and of every layer.
      itemsize: bytes of a number.

    >>> backward_work(batch=1, widths=(3, 2)).flops  # 2 * 3 * 2 + 3 * 2
    18
    """
    _arguments.whole("the number of widths", len(widths), 2)
    flops = size = 0
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        products = 1 if layer == 0 else 2
        flops += products * 2 * batch * fan_in * fan_out + 3 * batch * fan_out
        size += batch * fan_in + batch * fan_out + fan_in * fan_out  # a^T delta
        size += 5 * batch * fan_out  # z to f'(z); that and the error of a to delta
        size += batch * fan_out + fan_out  # dC/db
        if layer:
            size += batch * fan_out + fan_in * fan_out + batch * fan_in  # delta W^T
    return Work(flops, size * itemsize)


@_arguments.checked
def xla_work(function: Callable, *args: Any) -> Work:
    """Work that XLA reports for a function compiled for the default device.

    Fused operations keep intermediate values in registers, which lowers the bytes. XLA counts
    functions such as the exponential separately, as `transcendentals`; each is added as one
    operation.

    Args:
      function: of arrays.
      *args: its arguments.

    Returns:
      The work; nan where the backend reports none.
    """
    cost = jax.jit(function).lower(*args).compile().cost_analysis() or {}
    unknown = float("nan")
    return Work(
        cost.get("flops", unknown) + cost.get("transcendentals", 0.0),
        cost.get("bytes accessed", unknown),
    )
