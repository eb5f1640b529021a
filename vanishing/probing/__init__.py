"""The probe: signal and gradient at every layer of any JAX loss, from one backward pass."""

from vanishing.probing.budget import Budget, Charge
from vanishing.probing.check import Check, Checked
from vanishing.probing.grouping import SiteKind
from vanishing.probing.measuring import Probed
from vanishing.probing.plan import word_of
from vanishing.probing.sites import Site
from vanishing.probing.summary import BackwardSummary, ForwardSummary
from vanishing.probing.trace import ParamNorms, Trace
from vanishing.probing.transform import LEVELS, SUMMARIES, USUAL, Probe, probe

__all__ = [
    "LEVELS",
    "SUMMARIES",
    "USUAL",
    "BackwardSummary",
    "Budget",
    "Charge",
    "Check",
    "Checked",
    "ForwardSummary",
    "ParamNorms",
    "Probe",
    "Probed",
    "Site",
    "SiteKind",
    "Trace",
    "probe",
    "word_of",
]
