"""The diagnosis: what a trace says is wrong with a network, with evidence and remedies."""

from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.diagnosis.rules import Diagnosis, Finding, diagnose

__all__ = ["REMEDIES", "Diagnosis", "Finding", "Remedy", "diagnose"]
