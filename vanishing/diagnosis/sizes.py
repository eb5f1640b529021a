"""Rules for sizes: a gradient that is lost or gained on its way back, a signal that drifts."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing._text import number
from vanishing.diagnosis import remedies, terms
from vanishing.diagnosis.collapse import COLLAPSED
from vanishing.diagnosis.findings import Finding, finding
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.remedies import with_factor
from vanishing.diagnosis.settings import Setting, setting, useful
from vanishing.probing import Budget, SiteKind, Trace

LOST_DECADES = 2.0
"""Decades between the first layer's gradient and the last's beyond what chance explains: one
learning rate cannot serve layers whose gradients differ a hundredfold (Glorot & Bengio,
Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, sec. 4)."""


CHANCE_SPREADS = 2.0
"""Standard deviations of chance allowed on top. The log of a ReLU network's squared gradient has a
variance of about 5 times the sum of 1/width over its layers (Hanin, Which neural net architectures
give rise to exploding and vanishing gradients?, NeurIPS 2018, theorem 1)."""


STEADY = 0.98
"""r squared of a line through four layers or more, over which chance explains half as much."""


DRIFT_DECADES = 3.0
"""Decades that the forward signal may change from the first layer to the last, beyond chance."""


FORGOTTEN_DECADES = 6.0
"""Decades over which even the slowest unit of a recurrence beside other ways forgets its past."""


CONVERGED = 1e-4
"""Relative change of the signal's size at the last step of a fixed-point iteration."""


class _Fit(NamedTuple):
    """A straight line through log10 of a size, layer by layer."""

    total: float  # decades from the last layer back to the first
    factor: float  # a layer
    r_squared: float
    layers: int
    allowed: float  # decades that chance explains

    @property
    def steady(self) -> bool:
        """Is it the same factor at every one of many layers, which chance is not?"""
        return self.layers > 3 and self.r_squared > STEADY


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
    # The steps of a recurrence share their weights, and with these what chance makes of them.
    own = {
        trace.layout.instances[r].site if "[t=" in trace.names[r] else -1 - r: w
        for r, w in zip(rows, widths, strict=True)
    }
    variance = 5 * sum(1 / width for width in own.values())
    allowed = CHANCE_SPREADS * math.sqrt(variance) / 2 * math.log10(math.e)
    return _Fit(float(y[0] - y[-1]), float(10**-slope), float(r_squared), len(rows), allowed)


def _path(trace: Trace, budget: Budget) -> Sequence[int]:
    """The layers on the gradient's way back, in forward order; else all rows on it.

    In a residual network they are the sums along its stream, in others the products, unless what
    has a row is mostly something else: of a product of two signals only what follows it has one.
    """
    rows = [charge.row for charge in budget.charges]
    if rows:
        first = trace.names.index(budget.first)
        rows = [first, *rows]
    sums, products, curves = (
        [row for row in rows if trace.sites[row].kind == kind]
        for kind in (SiteKind.RESIDUAL, SiteKind.MATMUL, SiteKind.NONLINEARITY)
    )
    stream = [row for row in sums if _continues(trace, row)]
    if len(sums) >= 3 and 2 * len(stream) >= len(sums) and 3 * len(sums) >= len(products):
        return [*rows[:1], *sums]
    return products if len(products) >= 2 and 2 * len(products) >= len(curves) else rows


def _converges(trace: Trace, rows: Sequence[int]) -> bool:
    """Do the steps of a recurrence end in an equilibrium, one for each example?"""
    if len(rows) < 4 or not all("[t=" in trace.names[row] for row in rows[-2:]):
        return False
    if not trace.forward.similarity[rows[-1]] < 1 - COLLAPSED:
        return False  # the input is forgotten as well
    before, last = (float(trace.forward.rms[row]) for row in rows[-2:])
    return abs(last - before) < CONVERGED * last


def _continues(trace: Trace, row: int) -> bool:
    """Does a sum add to another sum, which at most a normalisation is between?"""
    parents = list(trace.layout.instances[row].parents)
    norms = [p for p in parents if trace.sites[p].kind == SiteKind.NORMALIZATION]
    parents += [parent for norm in norms for parent in trace.layout.instances[norm].parents]
    return any(trace.sites[parent].kind == SiteKind.RESIDUAL for parent in parents)


def _layers(trace: Trace, budget: Budget) -> Sequence[int]:
    """The path without its last layer, whose gradient is the loss's, where others are left."""
    path = _path(trace, budget)
    return path[:-1] if len(path) > 2 else path


def lost_or_gained(trace: Trace, budget: Budget, known: Known = Known()) -> Iterator[Finding]:
    """A gradient that vanishes or explodes on its way back through the layers."""
    fit = _fit(trace, _layers(trace, budget), trace.backward.rms)
    if fit is None or abs(fit.total) < LOST_DECADES + fit.allowed * (0.5 if fit.steady else 1):
        return
    if fit.total < 0 and _converges(trace, _layers(trace, budget)):
        return
    kind, verb = ("vanishing", "lost") if fit.total < 0 else ("exploding", "gained")
    ranked = sorted(budget.charges, key=lambda charge: charge.gain, reverse=fit.total > 0)
    place, _ = sorted(budget.by_place.items(), key=lambda item: item[1], reverse=fit.total > 0)[0]
    culprit = next(c.row for c in ranked if trace.sites[c.row].place == place)
    if trace.sites[culprit].kind == SiteKind.NORMALIZATION:
        # It divides the gradient by the size of what it takes in, relative to which that is kept.
        relative = _fit(trace, _layers(trace, budget), trace.backward.rms * trace.forward.rms)
        if relative is None or abs(relative.total) < LOST_DECADES + relative.allowed:
            return
    path = [trace.names.index(budget.first), *(charge.row for charge in ranked)]
    around, ratio = setting(trace, path, culprit), 10**fit.total
    drawn = terms.initial_scale(trace, _layers(trace, budget), around, known)
    says, cause = drawn.says, around.cause
    fixes = _numbered(useful(kind, around), 1 / fit.factor, fit)
    small = [f.factor for f in known.factors if f.at == trace.sites[culprit].at]
    if kind == "vanishing" and small:
        cause, fixes = "residual_scale", (remedies.WAKE,)
        says = f", where the program multiplies by {number(min(small, key=abs))}"
    if kind == "exploding" and _is_loud(trace, culprit, known):
        fixes = (remedies.UNSCALED, *fixes)
    yield finding(
        kind,
        budget.first,
        abs(fit.total) > 2 * (LOST_DECADES + fit.allowed),
        f"the gradient at the first {_layer(around)} is {number(ratio)} times that at the last, "
        f"{_each(fit, fit.factor, around)}, {verb} mostly in {place}{says}",
        around,
        first_over_last_layer=ratio,
        factor_a_layer=fit.factor,
        r_squared=fit.r_squared,
        layers=fit.layers,
        mostly_in=place,
        cause=cause,
        remedies=fixes,
        **_gates(around),
        **drawn.evidence,
    )


def _is_loud(trace: Trace, row: int, known: Known) -> bool:
    """Is a row the sum of a branch and a skip connection that is multiplied by more than 1?"""
    return any(abs(skip.factor) > 1 and skip.at == trace.sites[row].at for skip in known.skips)


def _gates(around: Setting) -> dict[str, str]:
    """What the forget gate of each framework begins with, where there are gates."""
    is_gated = around.recurrent and around.gated
    return {"forget_bias_by_default": terms.forget_biases()} if is_gated else {}


def _numbered(
    fixes: tuple[remedies.Remedy, ...], factor: float, fit: _Fit
) -> tuple[remedies.Remedy, ...]:
    """With the factor for the weights, where layers enough say it and it is a small step."""
    return with_factor(fixes, factor) if fit.layers > 2 and 0.1 < factor < 10 else fixes


def over_time(trace: Trace) -> Iterator[Finding]:
    """A recurrence whose gradient is lost or grows over time, beside other ways around it.

    Where each step adds to the loss, the gradient at the first is the sum of all: so it may grow
    by the number of steps.
    """
    rows_of: dict[int, list[int]] = {}
    for row, place in enumerate(trace.layout.instances):
        if "[t=" in trace.names[row] and trace.sites[row].kind == SiteKind.RESIDUAL:
            rows_of.setdefault(place.site, []).append(row)
    for rows in rows_of.values():
        if _converges(trace, rows):
            continue
        fit = _fit(trace, rows, trace.backward.rms)
        if fit is None or fit.layers <= 8 or fit.r_squared <= 0.9:
            continue
        grown = fit.total - math.log10(fit.layers) - fit.allowed
        if fit.total < -FORGOTTEN_DECADES or grown > LOST_DECADES:
            kind = "vanishing" if fit.total < 0 else "exploding"
            around, ratio = setting(trace, rows), 10**fit.total
            says = f"the gradient at the first step is {number(ratio)} times that at the last, "
            says += _each(fit, fit.factor, around)
            evidence: dict[str, Any] = {
                "first_over_last_layer": ratio,
                "factor_a_layer": fit.factor,
                **_gates(around),
            }
            yield finding(
                kind,
                trace.names[rows[0]],
                True,
                says,
                around,
                cause="recurrence",
                layers=fit.layers,
                **evidence,
            )


def _layer(around: Setting) -> str:
    return "step" if around.recurrent else "layer"


def _each(fit: _Fit, factor: float, around: Setting) -> str:
    digits = 3 if 0.9 < factor < 1.1 else 2
    text = number(factor, digits)
    return f"a factor of {text} a {_layer(around)} over {fit.layers} {_layer(around)}s"


def drift(trace: Trace, budget: Budget, known: Known = Known()) -> Iterator[Finding]:
    """A signal that shrinks or grows on its way through the layers."""
    fit = _fit(trace, _layers(trace, budget), trace.forward.rms)
    if fit is None or abs(fit.total) < DRIFT_DECADES + fit.allowed:
        return
    high = abs(fit.total) > 2 * (DRIFT_DECADES + fit.allowed)
    ratio, factor = 10**-fit.total, 1 / fit.factor
    around = setting(trace, [charge.row for charge in budget.charges])
    drawn = terms.initial_scale(trace, _layers(trace, budget), around, known)
    yield finding(
        "forward_drift",
        budget.last,
        high,
        f"the signal at the last {_layer(around)} is {number(ratio)} times that at the first, "
        f"{_each(fit, factor, around)}{drawn.says}",
        around,
        last_over_first=ratio,
        factor_a_layer=factor,
        layers=fit.layers,
        cause=around.cause,
        remedies=_numbered(useful("forward_drift", around), fit.factor, fit),
        **drawn.evidence,
    )


def in_words(trace: Trace, budget: Budget) -> str:
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
