"""The laboratory for vanishing and exploding gradients."""

from typing import TYPE_CHECKING

from vanishing._lazy import attach

if TYPE_CHECKING:
    from vanishing import (
        backprop,
        comparison,
        data,
        diagnosis,
        facts,
        figures,
        initializers,
        layers,
        losses,
        meanfield,
        networks,
        optimizers,
        probing,
        surrogate,
        sweep,
        theory,
        train,
    )
    from vanishing.comparison import compare
    from vanishing.diagnosis import Diagnose, Diagnosis, Finding, assert_healthy, diagnose
    from vanishing.layers import Layer
    from vanishing.probing import Budget, Probe, Probed, SiteKind, Trace, probe
    from vanishing.theory import Prediction, predict

__version__ = "0.1.0"
__getattr__, __dir__ = attach(
    __name__,
    {
        "Budget": "probing",
        "Diagnose": "diagnosis",
        "Diagnosis": "diagnosis",
        "Finding": "diagnosis",
        "Layer": "layers",
        "Prediction": "theory",
        "Probe": "probing",
        "Probed": "probing",
        "SiteKind": "probing",
        "Trace": "probing",
        "assert_healthy": "diagnosis",
        "backprop": "",
        "compare": "comparison",
        "comparison": "",
        "data": "",
        "diagnose": "diagnosis",
        "diagnosis": "",
        "facts": "",
        "figures": "",
        "initializers": "",
        "layers": "",
        "losses": "",
        "meanfield": "",
        "networks": "",
        "optimizers": "",
        "predict": "theory",
        "probe": "probing",
        "probing": "",
        "surrogate": "",
        "sweep": "",
        "theory": "",
        "train": "",
    },
)
__all__ = [
    "Budget",
    "Diagnose",
    "Diagnosis",
    "Finding",
    "Layer",
    "Prediction",
    "Probe",
    "Probed",
    "SiteKind",
    "Trace",
    "assert_healthy",
    "backprop",
    "compare",
    "comparison",
    "data",
    "diagnose",
    "diagnosis",
    "facts",
    "figures",
    "initializers",
    "layers",
    "losses",
    "meanfield",
    "networks",
    "optimizers",
    "predict",
    "probe",
    "probing",
    "surrogate",
    "sweep",
    "theory",
    "train",
]
