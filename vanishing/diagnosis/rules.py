"""The rules: faults of a network that its trace shows, with evidence and remedies."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vanishing._text import number, percent
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.breaks import (
    broken_gradients,
    cut,
    dead_gradient,
    non_finite,
    stuck,
)
from vanishing.diagnosis.collapse import FEWEST_EXAMPLES, collapse, dead_units
from vanishing.diagnosis.findings import Diagnosis, Finding, finding
from vanishing.diagnosis.remedies import Setting
from vanishing.diagnosis.settings import setting, worst_of_each_site
from vanishing.probing import Budget, SiteKind, Trace

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

BRANCH_SHARE = 1e-4
"""Gradient in a residual branch over that of the stream it is added to."""

UPDATE_RANGE = (1e-7, 0.1)
"""Update over weight, in norm. About 1e-3 is healthy (Karpathy, A recipe for training neural
networks, 2019); over 0.1 a step replaces the weight, under 1e-7 float32 loses it."""


SWALLOWED = 0.25
"""Update over weight, in spacings of the dtype at 1, under which a typical weight does not move:
rounding takes what is under half of a weight's own spacing, which is between half of that and all
of it."""


def judged(trace: Trace) -> Diagnosis:
    """The faults of the network that a trace was taken of; see `vanishing.diagnose`."""
    single = trace.single()
    findings = [*non_finite(single, trace), *dead_gradient(single)]
    if not any(f.kind == "non_finite" for f in findings):
        budget = single.budget()
        dead = list(dead_units(single))
        names = zeros.stuck_at_zero(single)
        causes = [*stuck(single, names), *cut(single, dead, names)]
        findings += [
            *broken_gradients(single),
            *causes,
            *_without_consequences(collapse(single), causes),
            *dead,
            *_lost_or_gained(single, budget),
            *_without_consequences(_saturated(single), causes),
            *_lost_branch(single, budget),
            *_drift(single, budget),
            *_updates(single),
        ]
    return Diagnosis(
        findings=tuple(sorted(findings, key=lambda f: f.severity)),
        rows=int(zeros.measured(single).sum()),
        notes=(*trace.notes, *zeros.unmeasured(single)),
        unjudged=tuple(_unjudged(single)),
        trace=trace,
    )


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
            where, high = setting(trace, [row]), share[row] > 0.6
            name, fraction = trace.names[row], float(share[row])
            yield finding("saturated", name, high, says, where, saturated_share=fraction)


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
            where = setting(trace, [row])
            yield finding("saturated", trace.names[row], False, says, where, concentration=share)


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


def _drift(trace: Trace, budget: Budget) -> Iterator[Finding]:
    fit = _fit(trace, _path(trace, budget)[:-1], trace.forward.rms)
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
    )


def _updates(trace: Trace) -> Iterator[Finding]:
    low, high = UPDATE_RANGE
    dtypes = [leaf.dtype for leaf in trace.layout.leaves for _ in range(math.prod(leaf.lengths))]
    for row, (name, dtype) in enumerate(zip(trace.layout.param_names, dtypes, strict=True)):
        weight, update = trace.params.weight[row], trace.params.update[row]
        if not weight > 0 or np.isnan(update) or update == 0:
            continue
        ratio = float(update / weight)
        spacing = float(jnp.finfo(dtype).eps)
        if spacing > low and ratio < SWALLOWED * spacing:
            says = f"the norm of one update is {number(ratio)} times that of the parameter, and "
            says += f"{dtype} tells numbers apart by {number(spacing)} of their size: most of the "
            says += "weights stay what they are"
            yield finding("precision", name, True, says, update_over_weight=ratio, spacing=spacing)
            continue
        if not low <= ratio <= high:
            says = f"the norm of one update is {number(ratio)} times that of the parameter"
            yield finding("update_ratio", name, ratio > 1, says, update_over_weight=ratio)
