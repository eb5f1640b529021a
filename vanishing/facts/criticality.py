"""Scales of weights at which an activation keeps the gradient, where theory has such a scale."""

from typing import NamedTuple


class CriticalScale(NamedTuple):
    """Standard deviation of a kernel times sqrt(fan_in) at which the gradient keeps its size."""

    name: str  # of the activation, as the rows of a trace have it
    scale: float
    source: str = "Schoenholz et al. 2017, section 3"
    version: str = "vanishing.theory.critical"


_HE = "He et al. 2015, section 2.2"

CRITICAL = (
    CriticalScale("identity", 1.0, "LeCun et al. 1998, section 4.6"),
    CriticalScale("relu", 1.4142, _HE),
    CriticalScale("leaky_relu", 1.4141, _HE),
    CriticalScale("tanh", 1.0),
    CriticalScale("hard_tanh", 1.0),
    CriticalScale("softsign", 1.0),
    CriticalScale("sin", 1.0),
    CriticalScale("erf", 0.8862),
    CriticalScale("elu", 1.0),
    CriticalScale("selu", 0.6905),
    CriticalScale("sigmoid", 10.149),
)
"""Without biases, and only where a signal near the fixed point stays there.

GELU, SiLU and Mish have a critical scale from which the signal runs away; softplus has none.
"""


def critical_scale(name: str) -> float | None:
    """The scale at which an activation keeps the gradient; None where there is none.

    >>> critical_scale("relu"), critical_scale("tanh"), critical_scale("softplus")
    (1.4142, 1.0, None)
    """
    return next((row.scale for row in CRITICAL if row.name == name), None)
