"""Rules for what is broken: numbers that are not finite, and parameters without a gradient."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vanishing._text import count, english
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.findings import Finding, finding
from vanishing.probing import Site, SiteKind, Trace
from vanishing.probing.layout import STOPPED, UNUSED

_OVERFLOWS = ("cosh", "exp", "exp2", "expm1", "sinh")  # before anything else goes wrong with them
_NAMED = 4  # names that a finding lists before it only counts


def non_finite(trace: Trace, whole: Trace) -> Iterator[Finding]:
    """Where inf or nan come from: a parameter, a row, or what is between the rows and the loss.

    What reaches neither the loss nor a gradient is no fault: a mask of -inf, a nan in the branch
    that a `where` leaves out in both directions.

    Args:
      trace: a single one.
      whole: the trace or the stack of traces that it is the median of.
    """
    forward = np.flatnonzero(trace.forward.non_finite > 0)
    backward = np.flatnonzero(trace.backward.non_finite > 0)
    measured = trace.layout.has_measured("params")
    params = np.flatnonzero(~np.isfinite(trace.params.weight)) if measured else []
    if np.isfinite(whole.value).all():
        if measured and np.isfinite(whole.params.gradient).all():
            forward = backward = np.zeros(0, int)
        elif len(backward):  # the signal's were left out, and may have come back with the gradient
            forward = np.zeros(0, int)
    if len(params):
        yield _broken_parameters([trace.layout.param_names[i] for i in params])
    elif len(forward):
        yield _on_the_way_forward(trace, int(forward[0]))
    elif len(backward):
        yield _on_the_way_back(trace, int(backward[-1]))
    elif not np.isfinite(trace.value):
        made_by = _after_the_rows(trace)
        value = float(trace.value)
        what = f"the loss is {value}" + (", though every row is finite" if len(trace) else "")
        yield _made(trace, "the loss", what, made_by, "an operation after them", value=value)


def broken_gradients(trace: Trace) -> Iterator[Finding]:
    """Parameters whose own gradient is not finite, though that of every row is."""
    if not trace.layout.has_measured("params"):
        return
    broken = dict(zeros.users(trace, ~np.isfinite(trace.params.gradient)))
    if not broken:
        return
    sites = {trace.layout.instances[row].site for rows in broken.values() for row in rows}
    has = "its gradient has" if len(broken) == 1 else "their gradients have"
    what = f"{has} inf or nan, though the signal and the gradient of every row are finite"
    suspects, otherwise = (
        _all_suspects(trace, sorted(sites)),
        "an operation between it and its layer",
    )
    where = _listed(list(broken))
    yield _made(trace, where, what, suspects, otherwise, first_seen="parameter's gradient")


def stuck(trace: Trace, names: Sequence[str]) -> Iterator[Finding]:
    """Parameters of 0 that keep the gradient of one another, and of others behind, at 0."""
    weights = dict(zip(trace.layout.param_names, trace.params.weight, strict=True))
    empty = [name for name in names if weights[name] == 0]
    if not empty:
        return
    says = "each is exactly 0, and the gradient of each is a multiple of another: none ever moves"
    if len(empty) == 1:
        says = "it is exactly 0, and its gradient is a multiple of it: it never moves"
    if behind := len(names) - len(empty):
        says += f", nor {'does' if behind == 1 else 'do'} {count(behind, 'parameter')} behind"
    yield finding(
        "dead_gradient",
        _listed(empty),
        len(names) > 1,
        says,
        remedies=(remedies.ALL_BUT_ONE,),
        zero_parameters=tuple(empty),
        behind=behind,
    )


def _broken_parameters(names: list[str]) -> Finding:
    says = f"{'these parameters hold' if len(names) > 1 else 'this parameter holds'} inf or nan"
    says += " before any operation"
    fixes = (remedies.CHECK_STEP,)
    where = _listed(names)
    return finding("non_finite", where, True, says, remedies=fixes, first_seen="parameter")


def _on_the_way_forward(trace: Trace, row: int) -> Finding:
    broken = int(trace.forward.non_finite[row])
    instance = trace.layout.instances[row]
    what = f"{_numbers(broken)} on the way forward"
    suspects = _suspects(trace, instance.site)
    own = trace.sites[row].place
    if not instance.parents:
        own += ", or already in what it takes in"
    return _made(
        trace,
        trace.names[row],
        what,
        suspects,
        own,
        unsuspected=(remedies.SMALLER, *(() if instance.parents else (remedies.CHECK_DATA,))),
        first_seen="forward",
        elements=float(broken),
    )


def _on_the_way_back(trace: Trace, row: int) -> Finding:
    """Of the gradient, which was finite in all rows after this one."""
    broken = int(trace.backward.non_finite[row])
    after = [i for i in trace.layout.instances if row in i.parents]
    sites = dict.fromkeys(instance.site for instance in after)
    suspects = _all_suspects(trace, sites) or _after_the_rows(trace)
    what = f"{_numbers(broken)} in its gradient"
    others = english(
        [trace.sites[trace.layout.instances.index(i)].place for i in after[:2]] or [""]
    )
    own = others or "an operation after it"
    return _made(
        trace, trace.names[row], what, suspects, own, first_seen="backward", elements=float(broken)
    )


def _made(
    trace: Trace,
    where: str,
    what: str,
    suspects: tuple[str, ...],
    otherwise: str,
    unsuspected: tuple[remedies.Remedy, ...] = (remedies.SMALLER,),
    **evidence: Any,
) -> Finding:
    """A finding that says what made the first numbers that are not finite.

    Without suspects it is said to be made by `otherwise`, and to be mended by `unsuspected`.
    """
    by = _operations(suspects) if suspects else otherwise
    says = f"{what}; made by {by}"
    if len(suspects) > 1 and trace.layout.level != "op":
        says += " (level='op' tells which)"
    overflows = [suspect.partition(" ")[0] in _OVERFLOWS for suspect in suspects]
    guard = () if all(overflows) else (remedies.GUARD,)
    fixes = (*guard, *((remedies.SMALLER,) if any(overflows) else ())) or unsuspected
    return finding("non_finite", where, True, says, remedies=fixes, made_by=by, **evidence)


def _numbers(broken: int) -> str:
    return f"{count(broken, 'number')} {'is' if broken == 1 else 'are'} inf or nan"


def _suspects(trace: Trace, site: int) -> tuple[str, ...]:
    return trace.layout.suspects[site] if trace.layout.suspects else ()


def _all_suspects(trace: Trace, sites: Iterable[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place for site in sites for place in _suspects(trace, site)))


def _after_the_rows(trace: Trace) -> tuple[str, ...]:
    return _suspects(trace, -1)


def _operations(places: tuple[str, ...]) -> str:
    """Operations with their lines, each line once.

    >>> _operations(("exp at a.py:3", "log at a.py:3", "div at a.py:5"))
    'exp or log at a.py:3, or div at a.py:5'
    """
    lines: dict[str, list[str]] = {}
    for place in places[:_NAMED]:
        op, _, line = place.partition(" at ")
        lines.setdefault(line, []).append(op)
    texts = [f"{english(ops, 'or')} at {line}" if line else english(ops, "or")
             for line, ops in lines.items()]  # fmt: skip
    return ", or ".join(texts)


def dead_gradient(trace: Trace) -> Iterator[Finding]:
    """One finding for the parameters that are not used, one for those used without a gradient."""
    leaves = trace.layout.leaves
    for reach in (UNUSED, STOPPED):
        names = [
            leaf.label.format(*(":" for _ in leaf.lengths))
            for leaf in leaves
            if leaf.reach == reach
        ]
        if not names:
            continue
        evidence: dict[str, Any] = {"parameters": len(names), "of": len(leaves)}
        have, them = ("has", "it") if len(names) == 1 else ("have", "them")
        says = f"{len(names)} of {len(leaves)} parameter arrays {have} "
        if reach == UNUSED:
            says += "no effect on the loss"
        else:
            says += "an effect on the loss, but no gradient"
            if trace.layout.stops:
                evidence["stop_gradient_at"] = english(trace.layout.stops[:_NAMED])
                says += f": stop_gradient at {evidence['stop_gradient_at']} cuts {them} off"
        many = reach == UNUSED or len(names) > len(leaves) / 2
        fixes = (remedies.USE,) if reach == UNUSED else (remedies.UNSTOP, remedies.SLOPE)
        yield finding("dead_gradient", _listed(names), many, says, remedies=fixes, **evidence)


def _listed(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    tail = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + tail


def cut(trace: Trace, explained: Sequence[Finding], stuck: Collection[str]) -> Iterator[Finding]:
    """A place that lets no gradient back to parameters, unless its units are off."""
    site_of = dict(zip(trace.names, (i.site for i in trace.layout.instances), strict=True))
    known = {site_of[cause.where] for cause in explained}
    for place in zeros.cuts(trace, stuck):
        if site_of.get(place.where) in known:
            continue
        site = trace.sites[site_of[place.where]] if place.where in site_of else None
        many = bool(place.where) or len(place.parameters) > len(trace.layout.param_names) / 2
        kind, says, fixes = _why_cut(place, site)
        where = place.where or _listed(place.parameters)
        yield finding(kind, where, many, says, remedies=fixes, gradient_on_the_way_back=0.0)


def _why_cut(place: zeros.Cut, site: Site | None) -> tuple[str, str, tuple[remedies.Remedy, ...]]:
    """The kind of a place that lets no gradient back, what it does, and what mends that."""
    if site is None:
        says = "the gradient is exactly 0" + (" everywhere" if place.where else "")
        fix = remedies.SCALE if place.where else remedies.UNSTOP
        return "dead_gradient", says, (fix, remedies.SLOPE)
    before, is_single = "the gradient before it is exactly 0: ", site.shape[-1:] == (1,)
    if site.kind == SiteKind.NORMALIZATION:
        says = (
            "a single number less its mean is 0"
            if is_single
            else "what it normalises does not vary"
        )
        return "norm", before + says, ()
    if is_single and "softmax" in site.op:
        says = "a softmax over one unit is always 1"
        return "dead_gradient", before + says, (remedies.TWO_UNITS,)
    fixes = (remedies.SCALE, remedies.SLOPE)
    return "dead_gradient", before + "its slope is 0 at every input", fixes
