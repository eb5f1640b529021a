"""The gradient at which each optimiser of Optax stops: where its epsilon outweighs the gradient."""

import math
from typing import NamedTuple

from vanishing.facts import versions

STEPS = 8
"""First steps that are added up, so that a first step that differs from the others counts less."""

LARGE = 1e3
"""Size of a gradient that no epsilon outweighs."""


class Stop(NamedTuple):
    """How small a gradient may be before an optimiser makes smaller steps of it."""

    optimizer: str  # a name of `optax`, or of `optax.contrib`
    half: float  # size of a gradient's elements at which it moves half as far as for large ones
    source: str  # what decides it
    version: str = versions.OPTAX


_ADAM = "eps=1e-8, beside the root of the second moment"
_PROPORTIONAL = "it moves in proportion to the gradient"
_SIGN = "it takes the gradient's sign"

STOPS = (
    Stop("sgd", math.inf, _PROPORTIONAL),
    Stop("radam", math.inf, "its first five steps are momentum alone, then as adam"),
    Stop("adagrad", 0.10, "initial_accumulator_value=0.1, under the root"),
    Stop("yogi", 0.010, "initial_accumulator_value=1e-6; it moves by that for no gradient too"),
    Stop("adadelta", 1.9e-3, "eps=1e-6, under both roots"),
    Stop("rmsprop", 1.1e-4, "eps=1e-8, under the root"),
    Stop("adan", 5.8e-5, "eps=1e-8, under the root"),
    Stop("sm3", 3.7e-5, "eps=1e-8, under the root"),
    Stop("contrib.adopt", 5e-7, "eps=1e-6, beside the root"),
    Stop("adabelief", 2.4e-7, "eps_root=1e-16, which is added at every step"),
    Stop("novograd", 1.6e-8, "eps=1e-6, beside the norm of the layer's gradient (64 x 64)"),
    Stop("adam", 1e-8, _ADAM),
    Stop("adamw", 1e-8, _ADAM),
    Stop("amsgrad", 1e-8, _ADAM),
    Stop("adamax", 1e-8, _ADAM),
    Stop("nadam", 1e-8, _ADAM),
    Stop("contrib.ademamix", 1e-8, _ADAM),
    Stop("contrib.muon", 1.1e-12, "eps=1e-8, beside the norm of the matrix (64 x 64)"),
    Stop("adafactor", 5.8e-16, "epsilon=1e-30, under the root"),
    Stop("lamb", 0.0, "its trust ratio makes up for epsilon, until numbers underflow"),
    Stop("lion", 0.0, _SIGN),
    Stop("sign_sgd", 0.0, _SIGN),
    Stop("rprop", 0.0, _SIGN),
)
"""Optimisers by Optax's defaults, the first that stops first.

Muon passes what is no matrix, and so kernels that are stacked for a scan, to Adam.
"""


def stops_like(half: float) -> tuple[str, ...]:
    """The optimisers that stop at a gradient of this size, within a fifth of it.

    >>> stops_like(1.02e-4), stops_like(1e-8)[0], stops_like(0.0)[1]
    (('rmsprop',), 'adam', 'lion')
    """
    return tuple(row.optimizer for row in STOPS if math.isclose(row.half, half, rel_tol=0.2))
