"""Findings: one fault each, with evidence and remedies; and the diagnosis that holds them."""

from typing import Any, NamedTuple

import numpy as np

from vanishing._text import english
from vanishing.diagnosis import document
from vanishing.diagnosis.remedies import REMEDIES, Remedy, Setting, useful
from vanishing.probing import Trace


class Finding(NamedTuple):
    """One fault; it prints as a line that says what was found, and a line for each remedy."""

    kind: str  # a key of `REMEDIES`
    where: str  # a row or a parameter
    severity: str  # "high" or "medium"
    evidence: dict[str, Any]  # the numbers behind `says`
    remedies: tuple[Remedy, ...]  # best first
    says: str = ""  # what was found, in words

    def __str__(self) -> str:
        head = f"{self.kind.replace('_', ' ')} at {self.where} ({self.severity}): {self.says}"
        return "\n".join(
            [head, *(f"  - {r.action}: {r.reason} ({r.source})" for r in self.remedies)]
        )

    def __repr__(self) -> str:
        return f"Finding({self.kind} at {self.where}, {self.severity})"


class Diagnosis(NamedTuple):
    """The faults of a network, worst first; a healthy one has no findings."""

    findings: tuple[Finding, ...]
    rows: int = 0  # that have numbers
    notes: tuple[str, ...] = ()  # what the trace could not record, and why
    unjudged: tuple[str, ...] = ()  # kinds of finding for which the trace lacks a summary
    trace: Trace | None = None  # that it was made from

    def __str__(self) -> str:
        unseen = [f"Not recorded: {note}" for note in self.notes]
        if self.unjudged:
            kinds = english([kind.replace("_", " ") for kind in self.unjudged])
            unseen.append(
                f"Not judged: {kinds}; they need probe(..., summaries=vanishing.probing.SUMMARIES)."
            )
        return "\n".join([*self._lines(), *unseen])

    def to_json(self, indent: int | None = None) -> str:
        """Findings, trace and budget as a document of JSON, for programs.

        Its form is that of `vanishing/diagnosis/schema.json`, and has a version. What was not
        measured, and nan, is null there; infinite numbers are "inf" and "-inf".

        Args:
          indent: spaces of an indented form; by default all is on one line.
        """
        return document.to_json(self, indent)

    def __repr__(self) -> str:
        return f"Diagnosis({', '.join(map(repr, self.findings)) or 'no findings'})"

    def _lines(self) -> list[str]:
        if self.findings:
            return [str(finding) for finding in self.findings]
        if not self.rows:
            return ["Nothing could be judged: the trace has no row with numbers."]
        if self.notes:
            return [f"Nothing found in what was recorded (rows: {self.rows})."]
        return ["Nothing found: signal and gradient keep their size."]


def finding(
    kind: str,
    where: str,
    high: bool | np.bool_,
    says: str,
    setting: Setting | None = None,
    remedies: tuple[Remedy, ...] = (),
    **evidence: Any,
) -> Finding:
    """A finding with these remedies, or with those of its kind that help in its setting."""
    remedies = remedies or (useful(kind, setting) if setting else REMEDIES[kind])
    return Finding(kind, where, "high" if high else "medium", evidence, remedies, says)
