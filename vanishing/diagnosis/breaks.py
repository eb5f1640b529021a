"""Rules for parameters without a gradient."""

import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vanishing._text import count, english, number, percent
from vanishing.diagnosis import remedies, zeros
from vanishing.diagnosis.findings import MOST_NAMED, Finding, finding, listed
from vanishing.diagnosis.known import Known, negligible
from vanishing.diagnosis.settings import ACTIVATIONS
from vanishing.probing import Site, SiteKind, Trace
from vanishing.probing.layout import STOPPED, UNUSED, USED, LeafPlace

_CLIPS = ("clip", "clamp", "hard", "max", "min")  # which have a slope between their ends

MOST_TWINS = 0.5
"""Share of a layer's units with an equal, over which it is no chance of a few equal rows."""


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
        listed(empty),
        len(names) > 1,
        says,
        remedies=(remedies.ALL_BUT_ONE,),
        cause="all_factors_zero",
        zero_parameters=tuple(empty),
        behind=behind,
    )


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
            says, cause = says + "no effect on the loss", "unused"
        else:
            says += "an effect on the loss, but no gradient"
            cause = "stopped" if trace.layout.stops else "discrete" if trace.layout.steps else ""
            if trace.layout.stops:
                evidence["stop_gradient_at"] = english(trace.layout.stops[:MOST_NAMED])
                says += f": stop_gradient at {evidence['stop_gradient_at']} cuts {them} off"
            elif trace.layout.steps:
                evidence["step_at"] = english(trace.layout.steps[:MOST_NAMED])
                says += f": {evidence['step_at']} has no slope"
        many = reach == UNUSED or len(names) > len(leaves) / 2
        fixes = (remedies.USE,) if reach == UNUSED else (remedies.UNSTOP, remedies.SLOPE)
        at = {"stopped": trace.layout.stops, "discrete": _lines(trace.layout.steps)}.get(cause, ())
        where = listed(names)
        yield finding(
            "dead_gradient",
            where,
            many,
            says,
            remedies=fixes,
            cause=cause,
            at="".join(at[:1]),
            **evidence,
        )


def _lines(places: Sequence[str]) -> list[str]:
    return [place.partition(" at ")[2] for place in places]


def cut(
    trace: Trace, known: Known, explained: Sequence[Finding], stuck: Collection[str]
) -> Iterator[Finding]:
    """A place that lets no gradient back to parameters, unless its units are off.

    Where it is none of the rows, terms that cancel are another finding.
    """
    site_of = dict(zip(trace.names, (i.site for i in trace.layout.instances), strict=True))
    off = {site_of[cause.where] for cause in explained}
    labels = [trace.layout.leaves[leaf].label for sum_ in known.cancelled for leaf in sum_.leaves]
    for place in zeros.cuts(trace, stuck):
        if site_of.get(place.where) in off:
            continue
        if place.where not in site_of and set(place.parameters) <= set(labels):
            continue
        place = place._replace(where=_softmax_of_one(trace, place.where) or place.where)
        site = trace.sites[site_of[place.where]] if place.where in site_of else None
        many = bool(place.where) or len(place.parameters) > len(trace.layout.param_names) / 2
        kind, cause, says, fixes = _why_cut(trace, place, site)
        where = place.where or listed(place.parameters)
        yield finding(
            kind,
            where,
            many,
            says,
            remedies=fixes,
            cause=cause,
            gradient_on_the_way_back=0.0,
            parameters=place.parameters,
        )


def _softmax_of_one(trace: Trace, where: str) -> str:
    """The softmax over one unit that a row, such as a clip of probabilities, takes in; or ""."""
    if where not in trace.names:
        return ""
    for row in trace.layout.instances[trace.names.index(where)].parents:
        if "softmax" in trace.sites[row].op and zeros.is_single(trace, row):
            return trace.names[row]
    return ""


def _why_cut(
    trace: Trace, place: zeros.Cut, site: Site | None
) -> tuple[str, str, str, tuple[remedies.Remedy, ...]]:
    """Kind and cause of a place that lets no gradient back, what it does, and what mends that."""
    if underflow := _underflow(trace, place):
        return "precision", "underflow", underflow, (remedies.LOSS_SCALE, remedies.BFLOAT)
    if site is None:
        weights = zip(trace.layout.param_names, trace.params.weight, strict=True)
        empty = [name for name, weight in weights if weight == 0 and "bias" not in name]
        if place.where and empty:
            says = f"the gradient is exactly 0 everywhere, and {listed(empty)} is all 0"
            return "dead_gradient", "all_factors_zero", says, (remedies.ALL_BUT_ONE,)
        says = "the gradient is exactly 0" + (" everywhere" if place.where else "")
        fix = remedies.SCALE if place.where else remedies.UNSTOP
        return "dead_gradient", "", says, (fix, remedies.SLOPE)
    row = trace.names.index(place.where)
    before = "the gradient before it is exactly 0: "
    is_single = zeros.is_single(trace, row)
    if site.kind == SiteKind.NORMALIZATION:
        says = (
            "a single number less its mean is 0"
            if is_single
            else "what it normalises does not vary"
        )
        return "norm", "one_unit" if is_single else "same_examples", before + says, ()
    if is_single and "softmax" in site.op:
        says = "a softmax over one unit is always 1"
        return "dead_gradient", "one_unit", before + says, (remedies.TWO_UNITS,)
    fix = remedies.SCORES if site.op == "attention" else remedies.SCALE
    if site.op not in ACTIVATIONS and not any(name in site.op for name in _CLIPS):
        fix = remedies.SLOPE
    return "dead_gradient", "flat", before + "its slope is 0 at every input", (fix,)


def _underflow(trace: Trace, place: zeros.Cut) -> str:
    """What is 0 because a gradient in float16 has come under its smallest number, or ""."""
    around = {i for i, name in enumerate(trace.names) if name == place.where}
    around |= {p for i in around for p in trace.layout.instances[i].parents}
    rows = around or range(len(trace))
    if not any(trace.sites[row].dtype == "float16" for row in rows):
        return ""
    sizes = np.asarray(trace.backward.rms)
    known = [float(sizes[row]) for row in rows if sizes[row] > 0]
    smallest = float(jnp.finfo(jnp.float16).smallest_subnormal)
    if known and min(known) > 1e3 * smallest:
        return ""
    size = f"of {number(min(known))} " if known else ""
    return (
        f"the gradient {size}comes under {number(smallest)}, the smallest number of float16, as 0"
    )


def underflow(trace: Trace) -> Iterator[Finding]:
    """Parameters whose gradient is 0 since it comes under the smallest number of float16."""
    names, least = zeros.underflown(trace)
    if names:
        says = f"the gradient that comes back to {'it' if len(names) == 1 else 'them'}, "
        says += f"{number(least)}, is multiplied to less than the smallest number of float16, 6e-8"
        fixes = (remedies.LOSS_SCALE, remedies.BFLOAT)
        many = len(names) > len(trace.layout.param_names) / 2
        yield finding(
            "precision",
            listed(names),
            many,
            says,
            remedies=fixes,
            cause="underflow",
            gradient_after_it=least,
            parameters=tuple(names),
        )


def cancelling(trace: Trace, known: Known, explained: Collection[str]) -> Iterator[Finding]:
    """Parameters of whose gradient nothing is left, since its terms cancel in every element."""
    gradients = np.asarray(trace.params.gradient)
    names = np.array(trace.layout.param_names)
    leaf_of = np.array(trace.layout.param_leaves, int)
    may_cancel = negligible(trace)
    for sum_ in known.cancelled:
        small = np.isin(leaf_of, sum_.leaves) & may_cancel
        # Of a bias alone, as that of a critic, the loss is no function: both terms shift by it.
        small &= ~np.array([_is_bias(trace.layout.leaves[leaf]) for leaf in leaf_of], bool)
        left = [str(name) for name in names[small] if name not in explained]
        if left:
            says = f"two terms of {'its' if len(left) == 1 else 'their'} gradient cancel but for "
            says += f"rounding, which come back from {sum_.at}"
            largest = float(gradients[small].max())
            yield finding(
                "dead_gradient",
                listed(left),
                True,
                says,
                remedies=(remedies.UNCANCEL,),
                cause="cancellation",
                at=sum_.at,
                gradient=largest,
                largest_gradient=float(gradients.max()),
                parameters=tuple(left),
            )


def _is_bias(leaf: LeafPlace) -> bool:
    return math.prod(leaf.own_shape) == math.prod(leaf.own_shape[-1:])


def without_input(trace: Trace, known: Known) -> Iterator[Finding]:
    """Parameters that are multiplied with numbers that are 0 for every example."""
    names = [trace.layout.leaves[i].label.format(*":::") for i in known.no_input]
    if names:
        says = "what it is multiplied with is 0 for every example"
        many = len(names) > len(trace.layout.leaves) / 2
        yield finding(
            "dead_gradient",
            listed(names),
            many,
            says if len(names) == 1 else says.replace("it is", "they are"),
            remedies=(remedies.REACH,),
            cause="no_input",
            parameters=tuple(names),
        )


def silent(trace: Trace, known: Known) -> Iterator[Finding]:
    """Parameters whose gradient is exactly 0 and stays so, which nothing else has explained.

    Those that a row shows without a gradient are left to the other rules, which know what waits;
    if nothing in the network has a gradient, they are told here as well.
    """
    rows = dict(zeros.users(trace, trace.params.gradient == 0))
    alive = np.asarray(trace.backward.rms) > 0
    nothing_learns = not np.any(trace.params.gradient)
    groups: dict[tuple[bool, str, str], list[str]] = {}
    for found in known.silent:
        place = trace.layout.leaves[found.leaf]
        names = [place.label.format(*index) for index in np.ndindex(place.lengths)]
        own = [row for name in names for row in rows.get(name, [])]
        is_told = nothing_learns or not own or (found.matters and any(alive[own]))
        if place.reach != USED or found.op == "cond" or not is_told:
            continue
        group = (found.matters, found.op, found.at)
        groups.setdefault(group, []).append(place.label.format(*":::"))
    for (matters, op, at), names in groups.items():
        has, it = ("its gradient is", "it") if len(names) == 1 else ("their gradients are", "they")
        says = f"{has} exactly 0, also where the other parameters are moved a little; the loss "
        if matters:
            says += f"changes where {it} {'is' if len(names) == 1 else 'are'} moved, so that what "
            says += f"follows {op} has a rule of its own, or a step"
            cause, fixes = "stopped", (remedies.UNSTOP, remedies.SLOPE)
        else:
            says += f"stays the same where {it} {'is' if len(names) == 1 else 'are'}: what follows "
            says += f"{op} is flat there, or multiplied by 0"
            cause, fixes = "flat", (remedies.REACH,)
        yield finding(
            "dead_gradient",
            listed(names),
            2 * len(names) > len(trace.layout.leaves),
            says,
            remedies=fixes,
            cause=cause,
            at=at,
            parameters=tuple(names),
        )


def symmetric(trace: Trace, known: Known) -> Iterator[Finding]:
    """Kernels whose units are equal and get equal gradients."""
    leaves = zip(trace.layout.leaves, known.leaves, strict=False)
    shares = {place.label.format(*":::"): leaf.twins for place, leaf in leaves}
    names = [name for name, share in shares.items() if share > MOST_TWINS]
    if names:
        share = max(shares.values())
        says = (
            f"{percent(share)} of its units have" if len(names) == 1 else "most units of each have"
        )
        says += " a twin of the same weights that gets the same gradient: they stay equal"
        yield finding(
            "symmetry",
            listed(names),
            share == 1,
            says,
            cause="constant_weights",
            share_of_twins=share,
            parameters=tuple(names),
        )


def twice(trace: Trace, known: Known) -> Iterator[Finding]:
    """A softmax of what is a softmax, or a sigmoid, already."""
    for op, line, again in known.softmax_twice:
        rows = (i for i, site in enumerate(trace.sites) if op in site.op and site.at == line)
        where = next((trace.names[row] for row in rows), "the loss")
        says = f"what this {op} returns is the input of another softmax"
        says += f" at {os.path.basename(again)}" if again else ""
        says += ", as if it were logits"
        yield finding("double_softmax", where, True, says, cause="softmax_twice", at=line)
