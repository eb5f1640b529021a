"""Mean-field theory of one layer: Gaussian moments, and the signal that `propagate` maps."""

from vanishing.meanfield.moments import GetMoments, Moments, by_quadrature
from vanishing.meanfield.quadrature import gaussian_mean
from vanishing.meanfield.signals import (
    Gain,
    PredictedRow,
    Signal,
    Walk,
    elementwise_gain,
    linear_gain,
    signal,
)

__all__ = [
    "Gain",
    "GetMoments",
    "Moments",
    "PredictedRow",
    "Signal",
    "Walk",
    "by_quadrature",
    "elementwise_gain",
    "gaussian_mean",
    "linear_gain",
    "signal",
]
