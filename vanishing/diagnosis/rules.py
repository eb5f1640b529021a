"""The diagnosis: faults of a network that its trace shows, with evidence and remedies."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing import _arguments
from vanishing._text import number
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.remedies import REMEDIES, Remedy
from vanishing.probing import Budget, SiteKind, Trace
from vanishing.probing.layout import STOPPED, UNUSED

# Thresholds. Where a network's own depth and width say what is usual, they are relative to that.

LOST_DECADES = 2.0
"""Decades between the first layer's gradient and the last's beyond what chance explains: one
learning rate cannot serve layers whose gradients differ a hundredfold (Glorot & Bengio,
Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, sec. 4)."""

CHANCE_SPREADS = 2.0
"""Standard deviations of chance allowed on top. The log of a ReLU network's squared gradient has a
variance of about 5 times the sum of 1/width over its layers (Hanin, Which neural net architectures
give rise to exploding and vanishing gradients?, NeurIPS 2018, theorem 1)."""

DRIFT_DECADES = 3.0
"""Decades that the forward signal may change from the first layer to the last, beyond chance."""

SATURATED_SHARE = 0.3
"""Share of units with under 1 % of the largest slope. A standard normal pre-activation leaves 0.3 %
of tanh units there (Glorot & Bengio 2010, sec. 3.2, watch this share while training)."""

DEAD_SHARE = 0.5
"""Share of units that are 0 for a whole batch (Lu et al., Dying ReLU and initialization, 2019); of
AutoTrainer's (Zhang et al., ICSE 2021) dying-ReLU symptom the threshold is a share of 0.7."""

COLLAPSED = 1e-4
"""Distance of the mean cosine of two examples from 1 under which they have become one (Dong et al.,
Attention is not all you need, ICML 2021)."""

BRANCH_SHARE = 1e-4
"""Gradient in a residual branch over that of the stream it is added to."""

UPDATE_RANGE = (1e-7, 0.1)
"""Update over weight, in norm. About 1e-3 is healthy (Karpathy, A recipe for training neural
networks, 2019); over 0.1 a step replaces the weight, under 1e-7 float32 loses it."""

FEWEST_EXAMPLES = 8
"""A unit that is on for half of the examples is off for eight at once with probability 0.4 %."""


class Finding(NamedTuple):
    """One fault."""

    kind: str  # a key of `REMEDIES`
    where: str  # a row or a parameter
    severity: str  # "high" or "medium"
    evidence: dict[str, Any]
    remedies: tuple[Remedy, ...]  # best first

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{name.replace('_', ' ')} {number(value, 3) if isinstance(value, float) else value}"
            for name, value in self.evidence.items()
        )
        head = f"{self.kind.replace('_', ' ')} at {self.where} ({self.severity}): {numbers}"
        return "\n".join(
            [head, *(f"  - {r.action}: {r.reason} ({r.source})" for r in self.remedies)]
        )


class Diagnosis(NamedTuple):
    """The faults of a network, worst first; a healthy one has no findings."""

    findings: tuple[Finding, ...]
    rows: int = 0  # that have numbers
    notes: tuple[str, ...] = ()  # what the trace could not record, and why

    def __str__(self) -> str:
        unseen = [f"Not recorded: {note}" for note in self.notes]
        if self.findings:
            return "\n".join([*map(str, self.findings), *unseen])
        if not self.rows:
            return "\n".join(
                ["Nothing could be judged: the trace has no row with numbers.", *unseen]
            )
        if unseen:
            return "\n".join([f"Nothing found in what was recorded (rows: {self.rows}).", *unseen])
        return "Nothing found: signal and gradient keep their size."


_NAMED = 4  # names that a finding lists before it only counts


def diagnose(trace: Trace) -> Diagnosis:
    """The faults of the network that a trace was taken of.

    Kinds of finding that need an optional summary (`dead_units`, `similarity`) or the updates
    (`Trace.with_updates`) are looked for only where the trace has them.

    Args:
      trace: from `vanishing.probe`; of a stack of traces, the median is looked at, and every
        element that is not finite.

    Raises:
      ValueError: it is no trace.

    >>> import jax.numpy as jnp
    >>> from vanishing import probe
    >>> loss = lambda w: jnp.sum(jnp.tanh(5 * jnp.eye(8) @ w))
    >>> print(diagnose(probe(loss)(jnp.eye(8) + 1).trace).findings[0].kind)
    saturated
    """
    _arguments.instance("trace", trace, Trace, "a Trace of `vanishing.probe`")
    single = trace.single()
    findings = [*_non_finite(single), *_dead_gradient(single)]
    if not any(finding.kind == "non_finite" for finding in findings):
        budget = single.budget()
        dead_units = list(_dead_units(single))
        findings += [
            *dead_units,
            *_lost_or_gained(single, budget),
            *_cut(single, dead_units),
            *_saturated(single),
            *_lost_branch(single, budget),
            *_drift(single, budget),
            *_collapse(single),
            *_updates(single),
        ]
    return Diagnosis(
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
        rows=int(zeros.measured(single).sum()),
        notes=(*trace.notes, *zeros.unmeasured(single)),
    )


def _finding(kind: str, where: str, high: bool | np.bool_, **evidence: Any) -> Finding:
    return Finding(kind, where, "high" if high else "medium", evidence, REMEDIES[kind])


def _non_finite(trace: Trace) -> Iterator[Finding]:
    forward = np.flatnonzero(trace.forward.non_finite > 0)
    backward = np.flatnonzero(trace.backward.non_finite > 0)
    if len(forward):
        row, way, count = forward[0], "forward", trace.forward.non_finite[forward[0]]
    elif len(backward):
        row, way, count = backward[-1], "backward", trace.backward.non_finite[backward[-1]]
    elif not np.isfinite(trace.value):
        yield _finding("non_finite", "the loss", True, value=float(trace.value))
        return
    else:
        return
    yield _finding("non_finite", trace.names[row], True, first_seen=way, elements=float(count))


def _dead_gradient(trace: Trace) -> Iterator[Finding]:
    """One finding for the parameters that are not used, one for those used without a gradient."""
    leaves = trace.layout.leaves
    for reach in (UNUSED, STOPPED):
        names = [
            leaf.label.format(*(":" for _ in leaf.lengths))
            for leaf in leaves
            if leaf.reach == reach
        ]
        if names:
            evidence: dict[str, Any] = {
                "parameters": len(names),
                "of": len(leaves),
                "they_are": reach,
            }
            if reach == STOPPED and trace.layout.stops:
                evidence["stop_gradient_at"] = ", ".join(trace.layout.stops[:_NAMED])
            many = reach == UNUSED or len(names) > len(leaves) / 2
            finding = _finding("dead_gradient", _listed(names), many, **evidence)
            fixes = (remedies.USE,) if reach == UNUSED else (remedies.UNSTOP, remedies.SLOPE)
            yield finding._replace(remedies=fixes)


def _listed(names: Sequence[str]) -> str:
    tail = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + tail


def _cut(trace: Trace, explained: Sequence[Finding]) -> Iterator[Finding]:
    """A place that lets no gradient back to parameters, unless its units are off."""
    site_of = dict(zip(trace.names, (i.site for i in trace.layout.instances), strict=True))
    known = {site_of[finding.where] for finding in explained}
    for cut in zeros.cuts(trace):
        if site_of.get(cut.where) in known:
            continue
        many = bool(cut.where) or len(cut.parameters) > len(trace.layout.param_names) / 2
        where = cut.where or _listed(cut.parameters)
        finding = _finding("dead_gradient", where, many, gradient_on_the_way_back=0.0)
        fixes = (remedies.SCALE if cut.where else remedies.UNSTOP, remedies.SLOPE)
        yield finding._replace(remedies=fixes)


def _dead_units(trace: Trace) -> Iterator[Finding]:
    shares = np.asarray(trace.forward.dead_units)
    for row in _worst_of_each_site(trace, shares):
        site, share = trace.sites[row], float(shares[row])
        examples = math.prod(site.shape[:-1])
        if (
            site.kind == SiteKind.NONLINEARITY
            and share > DEAD_SHARE
            and examples >= FEWEST_EXAMPLES
        ):
            evidence = {"dead_share": share, "examples": examples}
            yield _finding("dead_units", trace.names[row], share > 0.9, **evidence)


def _saturated(trace: Trace) -> Iterator[Finding]:
    # What a rectifier leaves at 0 has no slope either, but half of its units are off by design.
    share = np.where(trace.forward.zeros > 0.01, np.nan, trace.forward.saturated)
    for row in _worst_of_each_site(trace, share):
        if share[row] > SATURATED_SHARE:
            evidence = {"saturated_share": float(share[row])}
            yield _finding("saturated", trace.names[row], share[row] > 0.6, **evidence)


def _worst_of_each_site(trace: Trace, sizes: np.ndarray) -> list[int]:
    """The row of each site with the largest size; rows with nan are left out."""
    worst: dict[int, int] = {}
    for row, place in enumerate(trace.layout.instances):
        best = worst.get(place.site)
        if not np.isnan(sizes[row]) and (best is None or sizes[row] > sizes[best]):
            worst[place.site] = row
    return list(worst.values())


class _Fit(NamedTuple):
    """A straight line through log10 of a size, layer by layer."""

    total: float  # decades from the last layer back to the first
    factor: float  # a layer
    r_squared: float
    layers: int
    allowed: float  # decades that chance explains


def _fit(trace: Trace, rows: Sequence[int], sizes: Any) -> _Fit | None:
    sizes = np.asarray(sizes)
    rows = [row for row in rows if sizes[row] > 0 and np.isfinite(sizes[row])]
    if len(rows) < 3:
        return None
    y = np.log10(sizes[rows])
    x = np.arange(len(rows))
    slope, offset = np.polyfit(x, y, 1)
    spread = np.sum((y - y.mean()) ** 2)
    r_squared = 1 - np.sum((y - slope * x - offset) ** 2) / spread if spread > 0 else 1.0
    widths = [max(2, trace.sites[row].shape[-1]) if trace.sites[row].shape else 2 for row in rows]
    variance = 5 * sum(1 / width for width in widths)
    allowed = CHANCE_SPREADS * math.sqrt(variance) / 2 * math.log10(math.e)
    return _Fit(float(y[0] - y[-1]), float(10**-slope), float(r_squared), len(rows), allowed)


def _path(trace: Trace, budget: Budget) -> Sequence[int]:
    """The layers on the gradient's way back, in forward order; else all rows on it."""
    rows = [charge.row for charge in budget.charges]
    if rows:
        first = trace.names.index(budget.first)
        rows = [first, *rows]
    products = [row for row in rows if trace.sites[row].kind == SiteKind.MATMUL]
    return products if len(products) >= 3 else rows


def _lost_or_gained(trace: Trace, budget: Budget) -> Iterator[Finding]:
    fit = _fit(trace, _path(trace, budget)[:-1], trace.backward.rms)
    if fit is None or abs(fit.total) < LOST_DECADES + fit.allowed:
        return
    kind = "vanishing" if fit.total < 0 else "exploding"
    recurrent = "[t=" in budget.first or "[t=" in budget.last
    places = sorted(budget.by_place.items(), key=lambda item: item[1], reverse=fit.total > 0)
    finding = _finding(
        kind,
        budget.first,
        abs(fit.total) > 2 * (LOST_DECADES + fit.allowed),
        first_over_last_layer=10**fit.total,
        factor_a_layer=fit.factor,
        r_squared=fit.r_squared,
        layers=fit.layers,
        mostly_in=places[0][0],
    )
    useful = [remedy for remedy in finding.remedies if recurrent or remedy is not remedies.GATE]
    yield finding._replace(remedies=tuple(useful))


def _lost_branch(trace: Trace, budget: Budget) -> Iterator[Finding]:
    stream = [charge.row for charge in budget.charges]
    if not stream:
        return
    largest = max(trace.backward.rms[row] for row in stream)
    smallest = min(trace.backward.rms[row] for row in stream)
    if smallest < BRANCH_SHARE * largest:
        return  # the stream itself vanishes, which is another finding
    hidden = zeros.rounding(trace).union(stream)
    for row in _worst_of_each_site(trace, -np.asarray(trace.backward.rms)):
        share = trace.backward.rms[row] / largest
        is_layer = trace.sites[row].kind == SiteKind.MATMUL
        if row not in hidden and is_layer and 0 < share < BRANCH_SHARE:
            evidence = {"share_of_the_stream": float(share)}
            yield _finding("vanishing", trace.names[row], False, **evidence)


def _drift(trace: Trace, budget: Budget) -> Iterator[Finding]:
    fit = _fit(trace, _path(trace, budget)[:-1], trace.forward.rms)
    if fit is None or abs(fit.total) < DRIFT_DECADES + fit.allowed:
        return
    high = abs(fit.total) > 2 * (DRIFT_DECADES + fit.allowed)
    evidence = {"last_over_first": 10**-fit.total, "factor_a_layer": 1 / fit.factor}
    yield _finding("forward_drift", budget.last, high, **evidence, layers=fit.layers)


def _collapse(trace: Trace) -> Iterator[Finding]:
    collapsed = np.flatnonzero(1 - trace.forward.similarity < COLLAPSED)
    begun = trace.forward.similarity[~np.isnan(trace.forward.similarity)]
    if len(collapsed) and len(begun) and 1 - begun[0] >= COLLAPSED:
        row = collapsed[0]
        cosine = float(trace.forward.similarity[row])
        yield _finding("rank_collapse", trace.names[row], False, mean_cosine=cosine)


def _updates(trace: Trace) -> Iterator[Finding]:
    low, high = UPDATE_RANGE
    for row, name in enumerate(trace.layout.param_names):
        weight, update = trace.params.weight[row], trace.params.update[row]
        if not weight > 0 or np.isnan(update) or update == 0:
            continue
        ratio = float(update / weight)
        if not low <= ratio <= high:
            yield _finding("update_ratio", name, ratio > 1, update_over_weight=ratio)
