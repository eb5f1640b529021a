"""What a pass through a dense network costs: counted from its equations, and as XLA reports it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class Work(NamedTuple):
    """Work of a pass."""

    flops: float  # floating-point operations; a product and its sum are two
    bytes: float  # read from and written to memory

    def __sub__(self, other: "Work") -> "Work":
        """What one pass costs more than another."""
        return Work(self.flops - other.flops, self.bytes - other.bytes)


def forward_work(batch: int, widths: Sequence[int], itemsize: int = 4) -> Work:
    """Of the forward pass, `z = a W + b` and `a = f(z)` in every layer.

    The product takes 2 batch fan_in fan_out operations, adding b and applying f one a number each.
    The product reads a and W and writes z; the rest reads z and b and writes z and a, once each.

    Args:
      batch: examples.
      widths: of the input and of every layer.
      itemsize: bytes of a number.

    >>> forward_work(batch=1, widths=(3, 2)).flops  # 2 * 3 * 2 + 2 + 2
    16
    """
    flops = size = 0
    for fan_in, fan_out in itertools.pairwise(widths):
        flops += 2 * batch * fan_in * fan_out + 2 * batch * fan_out
        size += batch * fan_in + fan_in * fan_out + 4 * batch * fan_out + fan_out
    return Work(flops, size * itemsize)


def backward_work(batch: int, widths: Sequence[int], itemsize: int = 4) -> Work:
    """Of the backward pass: the weight gradients, and from the second layer on the error backwards.

    `a^T delta` takes as many operations as the layer's forward product, and so does `delta W^T`, so
    that the way back is about twice the way there. The slopes and their products take two for each
    number, the bias gradient one. Each equation reads what it names and writes what it gives, once:
    a and delta to dC/dW; delta and W to the error of a; z to the slope, both to delta, it to dC/db.

    Args:
      batch: examples.
      widths: of the input and of every layer.
      itemsize: bytes of a number.

    >>> backward_work(batch=1, widths=(3, 2)).flops  # 2 * 3 * 2 + 3 * 2
    18
    """
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


def xla_work(function: Callable, *args: Any) -> Work:
    """What XLA says that a function costs, once it is compiled for where it runs.

    Fused operations keep what passes between them in registers, which lowers the bytes. Functions
    such as the exponential count apart, as `transcendentals`, and are added here one for one.

    Args:
      function: of arrays.
      *args: its arguments.

    Returns:
      The work; nan where the backend reports none.
    """
    found = jax.jit(function).lower(*args).compile().cost_analysis() or {}
    unknown = float("nan")
    return Work(
        found.get("flops", unknown) + found.get("transcendentals", 0.0),
        found.get("bytes accessed", unknown),
    )
