"""The diagnosis: faults of a network that its trace shows, with evidence and remedies."""

from vanishing.diagnosis.causes import CAUSES, KINDS
from vanishing.diagnosis.findings import Diagnosis, Finding
from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.diagnosis.transform import Diagnose, assert_healthy, diagnose

__all__ = [
    "CAUSES",
    "KINDS",
    "REMEDIES",
    "Diagnose",
    "Diagnosis",
    "Finding",
    "Remedy",
    "assert_healthy",
    "diagnose",
]
