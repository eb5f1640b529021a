"""The diagnosis: faults of a network that its trace shows, with evidence and remedies."""

from vanishing.diagnosis.findings import Diagnosis, Finding
from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.diagnosis.rules import diagnose

__all__ = ["REMEDIES", "Diagnosis", "Finding", "Remedy", "diagnose"]
