"""The rules: faults of a network that its trace shows, with evidence and remedies."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing._text import number, percent
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.breaks import (
    cancelling,
    cut,
    dead_gradient,
    stuck,
    symmetric,
    twice,
    without_input,
)
from vanishing.diagnosis.causes import KINDS
from vanishing.diagnosis.collapse import FEWEST_EXAMPLES, collapse, dead_units
from vanishing.diagnosis.findings import Diagnosis, Finding, finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.nonfinite import broken_gradients, non_finite
from vanishing.diagnosis.remedies import Setting, useful, with_factor
from vanishing.diagnosis.settings import setting, worst_of_each_site
from vanishing.diagnosis.updates import updates
from vanishing.probing import Budget, SiteKind, Trace
from vanishing.probing.row_names import is_within

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

CONCENTRATED = 0.8
"""Sum of the squares of a token's attention weights, on average: 1 less this sum is the trace of
the softmax's Jacobian, diag(p) - p p'. Tokens that see only themselves, as the first under a
causal mask, have 1; where all weights are equal it is 1 over the number of tokens."""

FEWEST_TOKENS = 8
"""Of fewer tokens the first ones, under a causal mask, are too large a share of all."""

LARGE_LOGITS = 4.0
"""RMS of logits over which a cross-entropy is large for its scale and not for what was learnt."""

ABOVE_CHANCE = 2.0
"""Loss over that of chance. Logits of standard deviation s add about s**2 / 2 to it; of a network
that is trained both are far under it (Karpathy, A recipe for training neural networks, 2019)."""

BRANCH_SHARE = 1e-4
"""Gradient in a residual branch over that of the stream it is added to."""


def judged(trace: Trace, known: Known = Known()) -> Diagnosis:
    """The faults of the network that a trace was taken of; see `vanishing.diagnose`.

    Args:
      trace: of all summaries, or of some.
      known: what a call of the loss shows beside its trace.
    """
    single = trace.single()
    budget = single.budget()
    broken = list(non_finite(single, trace, known.births))
    findings = [*broken, *dead_gradient(single)]
    if all(f.evidence["first_seen"] == "parameter's gradient" for f in broken):
        dead = list(dead_units(single))
        names = zeros.stuck_at_zero(single)
        causes = [*stuck(single, names), *cut(single, dead, names), *without_input(single, known)]
        explained = {p for f in causes for p in f.evidence.get("parameters", ())}.union(names)
        causes += cancelling(single, known, explained)
        causes += [*symmetric(single, known), *twice(single, known)]
        if not broken:
            findings += broken_gradients(single)
        findings += [
            *causes,
            *_without_consequences(collapse(single), causes),
            *dead,
            *_lost_or_gained(single, budget),
            *_without_consequences(_saturated(single), causes),
            *_lost_branch(single, budget),
            *_head(single),
            *_drift(single, budget),
            *updates(single, known),
        ]
    return Diagnosis(
        findings=tuple(_in_order(_folded(_placed(single, f) for f in findings))),
        rows=int(zeros.measured(single).sum()),
        notes=(*trace.notes, *zeros.unmeasured(single)),
        unjudged=tuple(_unjudged(single)),
        trace=trace,
        sizes=_sizes(single, budget),
    )


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
        groups.setdefault((f.kind, f.cause, f.remedies), []).append(f)
    return [
        min(group, key=lambda f: f.severity)._replace(also=tuple(others))
        for group in groups.values()
        for others in [[f.where for f in group if f is not min(group, key=lambda f: f.severity)]]
    ]


def _sizes(trace: Trace, budget: Budget) -> str:
    """What became of signal and gradient over the network, in words."""
    rows = _path(trace, budget)
    texts = []
    for what, sizes, ends in (
        ("the gradient", trace.backward.rms, (rows[-1:], rows[:1])),
        ("the signal", trace.forward.rms, (rows[:1], rows[-1:])),
    ):
        first, last = (float(sizes[end[0]]) if end else 0.0 for end in ends)
        if len(rows) > 1 and first > 0 and last > 0 and np.isfinite([first, last]).all():
            factor, steps = last / first, len(rows) - 1
            each = f", by {number(factor ** (1 / steps))} a layer" if steps > 1 else ""
            names = " to ".join(trace.names[end[0]] for end in ends)
            texts.append(f"from {names} {what} is multiplied by {number(factor)}{each}")
    text = "; ".join(texts)
    return text[:1].upper() + text[1:] + "." if text else ""


def _without_consequences(findings: Iterable[Finding], causes: Sequence[Finding]) -> list[Finding]:
    """Findings without those at a place, or of a parameter of zeros, that a cause names."""
    places = {cause.where for cause in causes}
    places |= {name for cause in causes for name in cause.evidence.get("zero_parameters", ())}
    return [f for f in findings if not {f.where, f.evidence.get("zero_parameter")} & places]


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


def _saturated(trace: Trace) -> Iterator[Finding]:
    yield from _saturated_attention(trace)
    # What a rectifier leaves at 0 has no slope either, but half of its units are off by design.
    share = np.where(trace.forward.zeros > 0.01, np.nan, trace.forward.saturated)
    for row in worst_of_each_site(trace, share):
        if share[row] > SATURATED_SHARE:
            says = f"the slope is under 1% of its largest at {percent(share[row])} of its units"
            high, fraction = share[row] > 0.6, float(share[row])
            yield _saturation(trace, row, high, says, saturated_share=fraction)


def _saturation(trace: Trace, row: int, high: bool, says: str, **evidence: float) -> Finding:
    """Of a nonlinearity, with the factor by which what it takes in is too large."""
    around = setting(trace, [row])
    before = list(trace.layout.instances[row].parents)
    sizes = [float(trace.forward.rms[parent]) for parent in before]
    fixes = useful("saturated", around)
    if len(sizes) == 1 and sizes[0] > 1 and around.culprit == "activation":
        evidence["input_rms"] = sizes[0]
        says += f", and what it takes in has a size of {number(sizes[0])}"
        fixes = with_factor(fixes, 1 / sizes[0])
    cause = "attention" if around.culprit == "attention" else "initial_scale"
    return finding(
        "saturated", trace.names[row], high, says, remedies=fixes, cause=cause, **evidence
    )


def _saturated_attention(trace: Trace) -> Iterator[Finding]:
    """Attention whose weights are all on one token, so that its softmax has no slope."""
    tokens = np.array([site.shape[-1] if site.shape else 0 for site in trace.sites])
    attends = np.array([site.op == "attention" for site in trace.sites], bool)
    concentration = np.where(attends & (tokens >= FEWEST_TOKENS), tokens, np.nan)
    concentration = concentration * np.square(trace.forward.rms)
    for row in worst_of_each_site(trace, concentration):
        share = float(concentration[row])
        if share > CONCENTRATED:
            says = f"the squares of its weights over {tokens[row]} tokens sum to {number(share)}"
            says += ", where 1 is all of the weight on a single one"
            yield _saturation(trace, row, False, says, concentration=share)


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
    if len(rows) < 2:
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
    kinds = [trace.sites[row].kind for row in rows]
    products = [row for row, kind in zip(rows, kinds, strict=True) if kind == SiteKind.MATMUL]
    # Of a product of two signals, as of generated weights, only what follows it has a row.
    hidden = kinds.count(SiteKind.NONLINEARITY) > 2 * len(products)
    return products if len(products) >= 2 and not hidden else rows


def _layers(trace: Trace, budget: Budget) -> Sequence[int]:
    """The path without its last layer, whose gradient is the loss's, where others are left."""
    path = _path(trace, budget)
    return path[:-1] if len(path) > 2 else path


def _lost_or_gained(trace: Trace, budget: Budget) -> Iterator[Finding]:
    fit = _fit(trace, _layers(trace, budget), trace.backward.rms)
    if fit is None or abs(fit.total) < LOST_DECADES + fit.allowed:
        return
    kind, verb = ("vanishing", "lost") if fit.total < 0 else ("exploding", "gained")
    ranked = sorted(budget.charges, key=lambda charge: charge.gain, reverse=fit.total > 0)
    place, _ = sorted(budget.by_place.items(), key=lambda item: item[1], reverse=fit.total > 0)[0]
    culprit = next(c.row for c in ranked if trace.sites[c.row].place == place)
    path = [trace.names.index(budget.first), *(charge.row for charge in ranked)]
    around, ratio = setting(trace, path, culprit), 10**fit.total
    yield finding(
        kind,
        budget.first,
        abs(fit.total) > 2 * (LOST_DECADES + fit.allowed),
        f"the gradient at the first {_layer(around)} is {number(ratio)} times that at the last, "
        f"{_each(fit, fit.factor, around)}, {verb} mostly in {place}",
        around,
        first_over_last_layer=ratio,
        factor_a_layer=fit.factor,
        r_squared=fit.r_squared,
        layers=fit.layers,
        mostly_in=place,
        cause=around.cause,
        remedies=with_factor(useful(kind, around), 1 / fit.factor),
    )


def _layer(around: Setting) -> str:
    return "step" if around.recurrent else "layer"


def _each(fit: _Fit, factor: float, around: Setting) -> str:
    return f"a factor of {number(factor)} a {_layer(around)} over {fit.layers} {_layer(around)}s"


def _lost_branch(trace: Trace, budget: Budget) -> Iterator[Finding]:
    stream = [charge.row for charge in budget.charges]
    if not stream:
        return
    largest = max(trace.backward.rms[row] for row in stream)
    smallest = min(trace.backward.rms[row] for row in stream)
    if smallest < BRANCH_SHARE * largest:
        return  # the stream itself vanishes, which is another finding
    hidden = zeros.rounding(trace).union(stream)
    for row in worst_of_each_site(trace, -np.asarray(trace.backward.rms)):
        share = float(trace.backward.rms[row] / largest)
        is_layer = trace.sites[row].kind == SiteKind.MATMUL
        if row not in hidden and is_layer and 0 < share < BRANCH_SHARE:
            says = f"its gradient is {number(share)} times that of the skip connection beside it"
            fixes, name = (remedies.BRANCH,), trace.names[row]
            yield finding("vanishing", name, False, says, remedies=fixes, share_of_the_stream=share)


def _head(trace: Trace) -> Iterator[Finding]:
    """A last layer so large that a cross-entropy begins far above chance."""
    followed = {parent for instance in trace.layout.instances for parent in instance.parents}
    after = {place.partition(" ")[0] for place in trace.layout.suspects[-1:][0]}
    for row in set(range(len(trace))) - followed:
        site, size = trace.sites[row], float(trace.forward.rms[row])
        classes, examples = site.shape[-1] if site.shape else 1, math.prod(site.shape[:-1])
        # The gradient of a mean cross-entropy is at most 1 over the number of examples.
        is_mean = 0.1 < trace.backward.largest[row] * examples < 1.01
        chance, loss = math.log(classes), float(trace.value)
        if (
            site.kind != SiteKind.MATMUL
            or classes < 2
            or not is_mean
            or not {"exp", "log"} <= after
        ):
            continue
        if size > LARGE_LOGITS and loss > ABOVE_CHANCE * chance:
            says = (
                f"the loss is {number(loss)}, where chance is log({classes}) = {number(chance)}: "
            )
            says += f"the logits have a size of {number(size)}"
            fix = remedies.HEAD._replace(action=f"{remedies.HEAD.action}, by {number(1 / size)}")
            yield finding(
                "exploding",
                trace.names[row],
                loss > 2 * ABOVE_CHANCE * chance,
                says,
                remedies=(fix,),
                cause="head_scale",
                loss=loss,
                chance=chance,
                rms=size,
            )


def _drift(trace: Trace, budget: Budget) -> Iterator[Finding]:
    fit = _fit(trace, _layers(trace, budget), trace.forward.rms)
    if fit is None or abs(fit.total) < DRIFT_DECADES + fit.allowed:
        return
    high = abs(fit.total) > 2 * (DRIFT_DECADES + fit.allowed)
    ratio, factor = 10**-fit.total, 1 / fit.factor
    around = setting(trace, [charge.row for charge in budget.charges])
    yield finding(
        "forward_drift",
        budget.last,
        high,
        f"the signal at the last {_layer(around)} is {number(ratio)} times that at the first, "
        + _each(fit, factor, around),
        around,
        last_over_first=ratio,
        factor_a_layer=factor,
        layers=fit.layers,
        cause=around.cause,
        remedies=with_factor(useful("forward_drift", around), fit.factor),
    )
