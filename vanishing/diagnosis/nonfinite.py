"""Rules for numbers that are not finite: which operation makes them, and what to write there."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vanishing._text import count, english, number
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.findings import MOST_NAMED, Finding, finding, listed
from vanishing.diagnosis.known import Known
from vanishing.diagnosis.remedies import Remedy
from vanishing.diagnosis.singular import GROW, OVERFLOWS, SINGULAR, in_words, safe
from vanishing.probing import Trace
from vanishing.probing.births import Birth

_MOST = 3  # births that are told


def non_finite(trace: Trace, whole: Trace, known: Known = Known()) -> Iterator[Finding]:
    """Where inf or nan come from: a parameter, the data, or an operation.

    What reaches neither the loss nor a gradient is no fault: a mask of -inf, a nan in the branch
    that a `where` leaves out in both directions.

    Args:
      trace: a single one.
      whole: the trace or the stack of traces that it is the median of.
      known: with the operations that made them, where they are known; else suspects are named.
    """
    births = known.births
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
        yield _broken_parameters([trace.layout.param_names[i] for i in params], known)
    elif births:
        yield from _born(trace, births, forward, backward)
    elif len(forward):
        yield _on_the_way_forward(trace, int(forward[0]))
    elif len(backward):
        yield _on_the_way_back(trace, int(backward[-1]))
    elif not np.isfinite(trace.value):
        made_by = _after_the_rows(trace)
        value = float(trace.value)
        what = f"the loss is {value}" + (", though every row is finite" if len(trace) else "")
        yield _made(
            trace,
            "the loss",
            what,
            made_by,
            "an operation after them",
            first_seen="forward",
            value=value,
        )


def _born(
    trace: Trace, births: Sequence[Birth], forward: np.ndarray, backward: np.ndarray
) -> Iterator[Finding]:
    """What is told of the births: of poles, where there are some, or of what overflowed first."""
    poles = [b for b in births if SINGULAR.keys() & set(b.ops) or b.of] or births[:1]
    told = {(birth.ops, birth.at, birth.of): birth for birth in reversed(poles)}
    for birth in list(told.values())[::-1][:_MOST]:
        rows = backward[::-1] if birth.backward else forward
        yield _birth(trace, birth, int(rows[0]) if len(rows) else None)


def _birth(trace: Trace, birth: Birth, row: int | None) -> Finding:
    """The finding of one birth, whose numbers are seen at a row first, or at none."""
    gradients = ~np.isfinite(trace.params.gradient)
    names = [name for name, g in zip(trace.layout.param_names, gradients, strict=True) if g]
    evidence: dict[str, Any] = {"first_seen": "backward" if birth.backward else "forward"}
    if row is not None:
        where = trace.names[row]
        summary = trace.backward if birth.backward else trace.forward
        evidence["elements"] = float(summary.non_finite[row])
        says = f"{'the gradient there' if birth.backward else 'the signal'} is inf or nan"
    elif birth.backward and names:
        where, says = (
            listed(names),
            "the gradient is inf or nan, though that of every row is finite",
        )
        evidence["first_seen"] = "parameter's gradient"
    else:
        where, says = "the loss", f"it is {float(trace.value)}, though every row is finite"
        evidence["value"] = float(trace.value)
    kind, cause, why, fixes = _why(birth, _is_over_time(trace, birth))
    if cause == "data":
        where = birth.of
    if cause == "growth":
        rate, steps = _rate(trace, birth)
        if steps:
            why += f", after a growth by {number(rate)} a step over {count(steps, 'step')}"
            evidence |= {"factor_a_step": rate, "steps": steps}
    says += f": {why}"
    if not birth.backward and not names:
        says += "; every gradient is finite"
    elif names:
        says += f"; it reaches the gradients of {len(names)} of {len(gradients)} parameters"
    made_by = _operations(tuple(f"{op} at {os.path.basename(birth.at)}" for op in birth.ops))
    evidence["made_by"] = made_by or birth.of
    return finding(kind, where, True, says, remedies=fixes, cause=cause, at=birth.at, **evidence)


def divided_by_inf(trace: Trace, births: Sequence[Birth]) -> Iterator[Finding]:
    """What is 0 since it was divided by a number beyond the largest of its dtype."""
    empty = np.flatnonzero(np.asarray(trace.forward.rms) == 0)
    learns = np.any(trace.params.gradient)
    for birth in births[:_MOST] if len(empty) or not learns else ():
        kind, cause, why, fixes = _why(birth, _is_over_time(trace, birth))
        where = trace.names[empty[0]] if len(empty) else "the loss"
        what = "it is 0 for every example" if len(empty) else "every gradient is 0"
        says = f"{what}, divided by inf: {why}"
        yield finding(kind, where, True, says, remedies=fixes, cause=cause, at=birth.at)


def _is_over_time(trace: Trace, birth: Birth) -> bool:
    """Is it in a loop over time, and not in one over layers?"""
    return bool(birth.steps) and any("[t=" in name for name in trace.names)


def _why(birth: Birth, over_time: bool) -> tuple[str, str, str, tuple[Remedy, ...]]:
    """Kind and cause of a birth, what it is in words, and what mends it."""
    place = f" at {os.path.basename(birth.at)}" if birth.at else ""
    place += "".join(f"[{step}]" for step in birth.steps)
    if birth.of and birth.of != "constant":
        return "non_finite", "data", f"{birth.of} holds inf or nan", (remedies.CHECK_DATA,)
    if birth.of and birth.ops:
        why = f"{english(birth.ops)}{place} makes nan of the -inf of a mask: it leaves some rows "
        return "non_finite", "mask", why + "nothing to look at", (remedies.MASK,)
    if birth.ops == ("gather",):
        why = f"an index beyond its array{place}, which JAX answers with nan"
        return "non_finite", "index", why, (remedies.INDEX,)
    if GROW.issuperset(birth.ops):
        return _overflow(birth, place, over_time)
    if not SINGULAR.keys() & set(birth.ops):
        why = f"{english(birth.ops, 'or')}{place} makes it of finite numbers"
        return "non_finite", "singular_value", why, (remedies.GUARD,)
    why = in_words(birth.ops, birth.backward) + place
    if birth.untaken:
        why += ", in the branch of a jnp.where that is not taken"
        return "non_finite", "untaken_branch", why, (remedies.DOUBLE_WHERE,)
    if OVERFLOWS.issuperset(birth.ops) and not birth.backward:
        limit = math.log(float(jnp.finfo(birth.dtype).max))
        why = f"{english(birth.ops, 'or')} of {number(birth.largest)}{place}, where {birth.dtype} "
        why += f"allows {number(limit, 3)}"
        return "non_finite", "overflow", why, (_safe(birth), remedies.SMALLER)
    cause = "singular_slope" if birth.backward else "singular_value"
    return "non_finite", cause, why, (_safe(birth),)


def _overflow(
    birth: Birth, place: str, over_time: bool
) -> tuple[str, str, str, tuple[Remedy, ...]]:
    """A sum or a product of large numbers."""
    limit = float(jnp.finfo(birth.dtype or "float32").max)
    why = f"{english(birth.ops, 'or')}{place} goes beyond {number(limit)}, the largest number of "
    why += birth.dtype or "float32"
    if birth.dtype == "float16":
        return "precision", "overflow", why, (remedies.WIDER, remedies.SMALLER)
    fixes = (remedies.ORTHOGONAL, remedies.GATE) if over_time else (remedies.SCALE,)
    return "exploding", "growth", why, (*fixes, remedies.SMALLER)


def _safe(birth: Birth) -> Remedy:
    """What to write in place of an operation that breaks."""
    place = f"at {os.path.basename(birth.at)}: " if birth.at else ""
    ops = [op for op in birth.ops if op in SINGULAR]
    action = place + "; or ".join(dict.fromkeys(safe(op, birth.dtype) for op in ops))
    reason = "it then has a value and a slope wherever it is asked for"
    return Remedy(action, reason, remedies.GUARD.source)


def _rate(trace: Trace, birth: Birth) -> tuple[float, int]:
    """By what factor a step the signal, or the gradient, grew before it overflowed; and steps."""
    sizes = np.asarray((trace.backward if birth.backward else trace.forward).rms)
    by_site: dict[int, list[float]] = {}
    for row, place in enumerate(trace.layout.instances):
        if np.isfinite(sizes[row]) and sizes[row] > 0 and place.indices:
            by_site.setdefault(place.site, []).append(float(sizes[row]))
    longest = max(by_site.values(), key=lambda s: (len(s), s[-1] + s[0]), default=[])
    if len(longest) < 2:
        return 1.0, 0
    first, last = (longest[-1], longest[0]) if birth.backward else (longest[0], longest[-1])
    return float((last / first) ** (1 / (len(longest) - 1))), len(longest)


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
    where = listed(list(broken))
    yield _made(trace, where, what, suspects, otherwise, first_seen="parameter's gradient")


def _broken_parameters(names: list[str], known: Known) -> Finding:
    says = f"{'these parameters hold' if len(names) > 1 else 'this parameter holds'} inf or nan"
    says += " before any operation"
    fixes: tuple[Remedy, ...] = (remedies.CHECK_STEP,)
    if known.step.kept == "MultiSteps":  # which multiplies what it does not do yet by 0
        fixes = (remedies.SKIP, *fixes)
        says += ", and so does the sum of gradients that optax.MultiSteps keeps"
    where = listed(names)
    cause, seen = "parameter", "parameter"
    return finding("non_finite", where, True, says, remedies=fixes, cause=cause, first_seen=seen)


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
    unsuspected: tuple[Remedy, ...] = (remedies.SMALLER,),
    **evidence: Any,
) -> Finding:
    """A finding that says what made the first numbers that are not finite.

    Without suspects it is said to be made by `otherwise`, and to be mended by `unsuspected`.
    """
    by = _operations(suspects) if suspects else otherwise
    says = f"{what}; made by {by}"
    if len(suspects) > 1 and trace.layout.level != "op":
        says += " (level='op' tells which)"
    overflows = [suspect.partition(" ")[0] in OVERFLOWS for suspect in suspects]
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
    for place in places[:MOST_NAMED]:
        op, _, line = place.partition(" at ")
        lines.setdefault(line, []).append(op)
    texts = [f"{english(ops, 'or')} at {line}" if line else english(ops, "or")
             for line, ops in lines.items()]  # fmt: skip
    return ", or ".join(texts)
