"""Findings: one fault each, with evidence and remedies; and the diagnosis that holds them."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing._text import count, english, number
from vanishing.diagnosis import document
from vanishing.diagnosis.causes import CAUSES, KINDS
from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.diagnosis.settings import Setting, useful
from vanishing.probing import Trace

MOST_NAMED = 4  # names that a finding lists before it only counts


class Finding(NamedTuple):
    """One fault; it prints as a line that says what was found, and a line for each remedy."""

    kind: str  # a key of `REMEDIES`
    where: str  # a row or a parameter
    severity: str  # "high" or "medium"
    evidence: dict[str, Any]  # the numbers behind `says`
    remedies: tuple[Remedy, ...]  # best first
    says: str = ""  # what was found, in words
    cause: str = ""  # a key of `CAUSES`, which is what the remedies follow from
    at: str = ""  # "file:line" of the user's own code, or ""
    also: tuple[str, ...] = ()  # other rows or parameters of which the same is true

    def __str__(self) -> str:
        at = f", {os.path.basename(self.at)}" if self.at and self.at != self.where else ""
        places = f"{self.where}{at}"
        if self.also:
            places += f", and {count(len(self.also), 'other')} like it: {listed(self.also)}"
        head = f"{self.kind.replace('_', ' ')} at {places} ({self.severity}): {self.says}"
        return "\n".join(
            [head, *(f"  - {r.action}: {r.reason} ({r.source})" for r in self.remedies)]
        )

    def __repr__(self) -> str:
        return f"Finding({self.kind} at {self.where}, {self.severity})"

    def explain(self) -> str:
        """What the finding means: its rule with the rule's source, its cause, and the numbers."""
        lines = [str(self).splitlines()[0], f"  Rule: {KINDS[self.kind]}"]
        if self.cause:
            lines.append(f"  Cause, {self.cause.replace('_', ' ')}: {CAUSES[self.cause]}")
        for name, value in self.evidence.items():
            shown = number(value, 3) if isinstance(value, float) else value
            lines.append(f"  {name.replace('_', ' ')}: {shown}")
        return "\n".join(lines)


class Diagnosis(NamedTuple):
    """The faults of a network, worst first; a healthy one has no findings."""

    findings: tuple[Finding, ...]
    rows: int = 0  # that have numbers
    notes: tuple[str, ...] = ()  # what the trace could not record, and why
    unjudged: tuple[str, ...] = ()  # kinds of finding for which the trace lacks a summary
    trace: Trace | None = None  # that it was made from
    sizes: str = ""  # what became of signal and gradient over the network, in words
    remarks: tuple[str, ...] = ()  # what is no fault, but worth a look

    def __str__(self) -> str:
        unseen = [f"Note: {remark}." for remark in self.remarks]
        unseen += [f"Not recorded: {note}" for note in self.notes]
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
            lines = [str(finding) for finding in self.findings]
            if len(self.findings) > 1:
                first = self.findings[0]
                where = f"{first.kind.replace('_', ' ')} at {first.where}"
                lines.insert(0, f"{len(self.findings)} findings; likeliest cause: {where}.")
            return lines
        if not self.rows:
            return ["Nothing could be judged: the trace has no row with numbers."]
        looked_at = count(self.rows, "row")
        if self.trace is not None and (params := len(self.trace.layout.param_names)):
            looked_at += f" and {count(params, 'parameter')}"
        recorded = " of what was recorded" if self.notes else ""
        sizes = f" {self.sizes}" if self.sizes else ""
        return [f"Nothing found in {looked_at}{recorded}.{sizes}"]


def finding(
    kind: str,
    where: str,
    high: bool | np.bool_,
    says: str,
    setting: Setting | None = None,
    remedies: tuple[Remedy, ...] = (),
    cause: str = "",
    at: str = "",
    **evidence: Any,
) -> Finding:
    """A finding with these remedies, or with those of its kind that help in its setting."""
    remedies = remedies or (useful(kind, setting) if setting else REMEDIES[kind])
    severity = "high" if high else "medium"
    return Finding(kind, where, severity, evidence, remedies, says, cause, at)


def listed(names: Sequence[str]) -> str:
    """Names, the first few of many.

    >>> listed(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    tail = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + tail
