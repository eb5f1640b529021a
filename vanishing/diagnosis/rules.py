"""The rules: faults of a network that its trace shows, with evidence and remedies."""

import math
from collections.abc import Iterable, Iterator, Sequence

from vanishing.diagnosis import terms, zeros
from vanishing.diagnosis.branches import cut_skips, idle, lost_branch
from vanishing.diagnosis.breaks import (
    cancelling,
    cut,
    dead_gradient,
    silent,
    stuck,
    symmetric,
    twice,
    underflow,
    without_input,
)
from vanishing.diagnosis.causes import KINDS
from vanishing.diagnosis.collapse import ALL_DEAD, FEWEST_EXAMPLES, collapse, dead_units, tokens
from vanishing.diagnosis.findings import MOST_NAMED, Diagnosis, Finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.nonfinite import broken_gradients, divided_by_inf, non_finite
from vanishing.diagnosis.norms import norms
from vanishing.diagnosis.remedies import UNSCALED, without_factor
from vanishing.diagnosis.saturation import head, masked, out_of_range, saturated
from vanishing.diagnosis.sizes import drift, in_words, lost_or_gained, over_time
from vanishing.diagnosis.updates import updates
from vanishing.probing import Budget, SiteKind, Trace
from vanishing.probing.row_names import is_within


def judged(trace: Trace, known: Known = Known()) -> Diagnosis:
    """The faults of the network that a trace was taken of; see `vanishing.diagnose`.

    Args:
      trace: of all summaries, or of some.
      known: what a call of the loss shows beside its trace.
    """
    single = trace.single()
    budget = single.budget()
    broken = list(non_finite(single, trace, known))
    findings = [*broken, *dead_gradient(single)]
    if all(f.evidence["first_seen"] == "parameter's gradient" for f in broken):
        findings += _of_finite(single, known, budget)
        if not broken:
            findings += broken_gradients(single)
    return Diagnosis(
        findings=tuple(
            _in_order(_folded(_placed(single, terms.at_corner(single, f)) for f in findings))
        ),
        rows=int(zeros.measured(single).sum()),
        notes=(*trace.notes, *zeros.unmeasured(single)),
        unjudged=tuple(_unjudged(single)),
        trace=trace,
        sizes=in_words(single, budget),
        remarks=tuple(_remarks(single, known)),
    )


def _remarks(trace: Trace, known: Known) -> Iterator[str]:
    """What is no fault, but may not be meant."""
    labels = [leaf.label.format(*":::") for leaf in trace.layout.leaves]
    for first, second in known.linear[:MOST_NAMED]:
        yield (
            f"{labels[first]} and {labels[second]} follow one another without a nonlinearity "
            "between: together they are one linear layer"
        )
    for leaf in [found.leaf for found in known.silent if found.op == "cond"][:MOST_NAMED]:
        yield f"{labels[leaf]} has no gradient: the branch that it is used in was not taken"


def _of_finite(trace: Trace, known: Known, budget: Budget) -> list[Finding]:
    """What is found of finite numbers: causes, and what does not follow from one that is found."""
    dead, names = [*dead_units(trace), *masked(trace)], zeros.stuck_at_zero(trace)
    if overflown := list(divided_by_inf(trace, known.divided_by)):
        return overflown  # all else follows
    same = [*symmetric(trace, known), *twice(trace, known)]
    stops = [*stuck(trace, names), *cut(trace, known, dead, names), *underflow(trace)]
    if any(f.kind == "symmetry" for f in same):  # equal experts give a router no gradient
        stops = [f for f in stops if "softmax" not in f.where]
    examples = _without_consequences(collapse(trace), stops)
    causes = [*out_of_range(trace, known), *same, *stops, *dead, *examples]
    explained = {p for f in causes for p in f.evidence.get("parameters", ())}.union(names)
    if not dead and not any(f.kind == "norm" for f in stops):  # which returns zeros itself
        causes += [f for f in without_input(trace, known) if f.where not in explained]
    if not examples and not same:
        cancelled = list(cancelling(trace, known, explained))
        rounded = {name for f in cancelled for name in f.evidence["parameters"]}
        causes += list(tokens(trace, rounded)) or cancelled
    sizes = list(cut_skips(trace, known)) or list(lost_or_gained(trace, budget, known))
    sizes = sizes or list(over_time(trace))
    if any(f.cause in ("underflow", "one_unit") for f in stops):  # what is 0 by that has no size
        sizes = []
    if any(f.where.endswith("attention") for f in examples):  # so do queries and keys lose theirs
        sizes = [f for f in sizes if f.kind != "exploding"]
    if any(f.cause == "activation" for f in sizes):  # what loses the gradient loses differences
        causes = [f for f in causes if f.kind != "rank_collapse"]
    if sizes:  # units are off where all examples have one direction
        causes = [f for f in causes if f.evidence.get("dead_share", 1) > ALL_DEAD]
    flat = _without_consequences([*norms(trace), *saturated(trace, known)], causes)
    if any(f.cause == "one_unit" for f in flat):
        causes = [f for f in causes if f.cause != "cancellation"]
    if any(f.kind == "exploding" and UNSCALED in f.remedies for f in sizes):
        flat = [f for f in flat if f.cause != "initial_scale"]  # the stream has grown
        causes = [f for f in causes if f.cause != "flat"]
    flat_places = {
        site.place
        for site, name in zip(trace.sites, trace.names, strict=True)
        if name in {f.where for f in flat}
    }
    drifts = list(drift(trace, budget, known))
    branches = list(lost_branch(trace, budget)) or ([] if flat or sizes else list(idle(trace)))
    collapsed = any(f.kind == "rank_collapse" for f in causes)
    attention = any(f.cause == "attention" for f in flat) and not drifts
    if any(f.evidence.get("saturated_share", 0) > MOST_FLAT for f in flat):
        causes = [f for f in causes if f.cause not in ("flat", "same_examples")]
    told = [
        *causes,
        *flat,
        *(f for f in sizes if f.evidence.get("mostly_in") not in flat_places and not attention),
        *(f for f in branches if not (f.cause == "same_examples" and collapsed)),
        *([] if sizes else head(trace)),
        *([] if sizes or flat else drifts),
    ]
    if not any(f.kind in _EXPLAINS for f in told):
        told += silent(trace, known)
    return [*told, *updates(trace, known)]


_EXPLAINS = {"dead_gradient", "dead_units", "norm", "precision", "saturated", "symmetry"}
"""Kinds whose findings tell why gradients are 0."""


MOST_FLAT = 0.9
"""Share of saturated units of one layer that makes another without any slope, or equal outputs."""

_RANKS = {kind: rank for rank, kind in enumerate(KINDS)}  # causes before what follows from them


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (f.severity, _RANKS[f.kind]))


def _placed(trace: Trace, finding: Finding) -> Finding:
    """The finding with the line of its row, or of the first row that uses its parameter."""
    if finding.at:
        return finding
    rows = dict(zip(trace.names, trace.sites, strict=True))
    site = rows.get(finding.where) or next(
        (s for s in trace.sites if s.param and is_within(finding.where.split(",")[0], s.param)),
        None,
    )
    return finding._replace(at=site.at) if site else finding


def _folded(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for those of one kind, cause and remedies, at the place where it is worst."""
    groups: dict[tuple, list[Finding]] = {}
    for f in findings:
        groups.setdefault((f.kind, f.cause, without_factor(f.remedies)), []).append(f)
    worst_first = (sorted(group, key=lambda f: f.severity) for group in groups.values())
    return [worst._replace(also=tuple(f.where for f in rest)) for worst, *rest in worst_first]


def _without_consequences(findings: Iterable[Finding], causes: Sequence[Finding]) -> list[Finding]:
    """Findings without those at a place, or of parameters of zeros, that a cause names."""
    places = {cause.where for cause in causes}
    places |= {name for cause in causes for name in cause.evidence.get("zero_parameters", ())}
    return [f for f in findings if f.where not in places]


def _unjudged(trace: Trace) -> Iterator[str]:
    """The kinds of finding that a summary which was not asked for could show."""
    units = [site for site in trace.sites if site.shape[-1:] > (1,)]
    examples = [math.prod(site.shape[:-1]) for site in units]
    nonlinear = [site.kind == SiteKind.NONLINEARITY for site in units]
    needed = {
        "non_finite": ("non_finite", bool(units)),
        "saturated": ("saturated", any(nonlinear)),
        "dead_units": (
            "dead_units",
            any(
                n and count >= FEWEST_EXAMPLES for n, count in zip(nonlinear, examples, strict=True)
            ),
        ),
        "rank_collapse": ("similarity", any(count > 1 for count in examples)),
    }
    for kind, (summary, matters) in needed.items():
        if matters and not trace.layout.has_measured(summary):
            yield kind
