"""Questions about a whole network at initialisation, answered before a weight is drawn."""

from vanishing.theory.cells import gru_gain, lstm_gain
from vanishing.theory.checks import CheckedLayer, check_layer
from vanishing.theory.criticality import Critical, CriticalPoint, critical, critical_line
from vanishing.theory.isometry import Spectrum, predict_spectrum, singular_values, spectrum
from vanishing.theory.maps import (
    CorrelationFixedPoint,
    DepthScales,
    FixedPoint,
    chi,
    correlation_fixed_point,
    correlation_fixed_points,
    covariance_map,
    depth_scales,
    fixed_point,
    fixed_points,
    variance_map,
)
from vanishing.theory.prediction import Prediction, predict, profile
from vanishing.theory.recurrent import StepBound, chrono_gain, gate_gain, rnn_bound, rnn_chi
from vanishing.theory.tailored import Tailored, maximal_curvature, maximal_slope, tailor
from vanishing.theory.textbook import chain_factors, learning_speed_ratio

__all__ = [
    "CheckedLayer",
    "CorrelationFixedPoint",
    "Critical",
    "CriticalPoint",
    "DepthScales",
    "FixedPoint",
    "Prediction",
    "Spectrum",
    "StepBound",
    "Tailored",
    "chain_factors",
    "check_layer",
    "chi",
    "chrono_gain",
    "correlation_fixed_point",
    "correlation_fixed_points",
    "covariance_map",
    "critical",
    "critical_line",
    "depth_scales",
    "fixed_point",
    "fixed_points",
    "gate_gain",
    "gru_gain",
    "learning_speed_ratio",
    "lstm_gain",
    "maximal_curvature",
    "maximal_slope",
    "predict",
    "predict_spectrum",
    "profile",
    "rnn_bound",
    "rnn_chi",
    "singular_values",
    "spectrum",
    "tailor",
    "variance_map",
]
