"""Mean-field theory of one layer: Gaussian moments, and the signal that `propagate` maps."""

from vanishing.meanfield.moments import GetMoments, Moments, by_quadrature
from vanishing.meanfield.quadrature import gaussian_mean
from vanishing.meanfield.signals import Gain, PredictedRow, Signal, Walk, signal

__all__ = [
    "Gain",
    "GetMoments",
    "Moments",
    "PredictedRow",
    "Signal",
    "Walk",
    "by_quadrature",
    "gaussian_mean",
    "signal",
]
