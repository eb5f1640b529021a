"""The diagnosis: faults of a network that its trace shows, with evidence and remedies."""

from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.diagnosis.rules import Diagnosis, Finding, diagnose

__all__ = ["REMEDIES", "Diagnosis", "Finding", "Remedy", "diagnose"]
