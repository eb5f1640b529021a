"""Rules for the optimiser's step: what it does to the parameters, beside what the gradient asks."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from vanishing import facts
from vanishing._text import number, percent
from vanishing.diagnosis import remedies, terms
from vanishing.diagnosis.findings import Finding, finding, listed
from vanishing.diagnosis.known import Known
from vanishing.probing import Trace

UPDATE_RANGE = (1e-7, 0.1)
"""Update over weight, in norm. About 1e-3 is healthy (Karpathy, A recipe for training neural
networks, 2019); over 0.1 a step replaces the weight, under 1e-7 float32 loses it."""

SWALLOWED = 0.25
"""Update over weight, in spacings of the dtype at 1, under which a typical weight does not move:
rounding takes what is under half of a weight's own spacing, which is between half of that and all
of it. Of single elements it is known where the arguments are: then half of them is asked for."""

MOST_STAY = 0.5

HARDLY = 1e-3
"""Step over that for a large gradient, under which a parameter does not take part in training."""

SMALL_START = 0.1
"""Root mean square of a kernel times sqrt(fan-in) under which it was drawn small on purpose, as the
last layer of a policy or a residual branch is: its first steps are large beside it."""


def updates(trace: Trace, known: Known = Known()) -> Iterator[Finding]:
    """Updates that are not finite, that do nothing, or that are out of all proportion."""
    update = np.asarray(trace.params.update)
    if np.isnan(update).all() and not any(leaf.broken for leaf in known.leaves):
        return
    names = trace.layout.param_names
    gradient = np.asarray(trace.params.gradient)
    broken = [name for name, u in zip(names, update, strict=True) if not np.isfinite(u)]
    if broken and np.isfinite(gradient).all():
        yield _broken(trace, known, update, broken)
        return
    if (gradient > 0).any() and not update[gradient > 0].any():
        if not known.step.moves_later:
            says = "every update is exactly 0, though there are gradients"
            fixes, cause = (remedies.STANDS_STILL,), "frozen"
            where = listed([n for n, g in zip(names, gradient, strict=True) if g > 0])
            yield finding("update_ratio", where, True, says, remedies=fixes, cause=cause)
        yield from _outweighed(trace, known)
        return
    yield from _out_of_range(trace, known, update)


def _broken(trace: Trace, known: Known, update: np.ndarray, broken: list[str]) -> Finding:
    """Updates that are not finite, though the gradients are, and why."""
    says = f"the update of {len(broken)} of {len(update)} parameters is inf or nan, though every "
    says += "gradient is finite"
    leaves = zip(trace.layout.param_leaves, update, strict=True)
    dtypes = {trace.layout.leaves[leaf].dtype for leaf, size in leaves if not np.isfinite(size)}
    cause, fix = "optimizer", remedies.OPTIMIZER
    if known.step.kept == "MultiSteps":
        fix = remedies.SKIP
        says += ": optax.MultiSteps keeps one of a step before"
    elif known.step.kept:
        says += ": the optimiser's state holds one of a step before"
    elif dtypes == {"float16"}:
        cause = "epsilon"
        says += ": 1e-8, Adam's epsilon, is 0 in float16"
    return finding("update_ratio", listed(broken), True, says, remedies=(fix,), cause=cause)


def _outweighed(trace: Trace, known: Known) -> Iterator[Finding]:
    """Kernels that an optimiser would move, but for its epsilon."""
    unreliable = {leaf for cancelled in known.cancelled for leaf in cancelled.leaves}
    for stop in known.step.stopped:
        if trace.layout.param_leaves[stop.param] in unreliable:
            continue
        alike = facts.stops_like(stop.half)
        size, far = number(stop.size), number(stop.share)
        half = terms.plain(float(f"{stop.half:.0e}"))
        says = f"its gradient, of {size} an element, moves it {far} times as far as a large one "
        says += f"would; half as far takes one of {half}"
        says += f", as with optax.{alike[0]}" if alike else ""
        yield finding(
            "update_ratio",
            trace.layout.param_names[stop.param],
            stop.share < HARDLY,
            says,
            remedies=(remedies.LOUDER, remedies.NO_EPSILON),
            cause="epsilon",
            gradient_rms=stop.size,
            share_of_a_full_step=stop.share,
            half_a_step_at=stop.half,
            stops_like=", ".join(alike),
        )


def _out_of_range(trace: Trace, known: Known, update: np.ndarray) -> Iterator[Finding]:
    low, high = UPDATE_RANGE
    weight = np.asarray(trace.params.weight)
    outweighed = list(_outweighed(trace, known))
    yield from outweighed
    stopped = {f.where for f in outweighed}
    names = trace.layout.param_names
    rows = [i for i, u in enumerate(update) if weight[i] > 0 and u > 0 and names[i] not in stopped]
    ratios = {i: float(update[i] / weight[i]) for i in rows}
    leaf_of = trace.layout.param_leaves
    swallowed = [i for i in rows if _is_swallowed(trace, known, leaf_of[i], ratios[i])]
    for i in swallowed:
        yield _swallowed(trace, known, i, leaf_of[i], ratios[i])
    others = [i for i in rows if i not in swallowed]
    kernels = [i for i in others if _is_kernel(trace, leaf_of[i])] or others
    large = [i for i in kernels if ratios[i] > high]
    small = [i for i in kernels if ratios[i] < low]
    for out in (large, small):
        if out and 2 * len(out) >= len(kernels):
            for i in out:
                yield _ratio(trace, i, ratios[i], "learning_rate", remedies.RATE_OF_UPDATES)
        elif out is large:
            for i in (i for i in out if ratios[i] > 1 and not _starts_small(trace, leaf_of[i])):
                yield _ratio(trace, i, ratios[i], "one_parameter", remedies.ONE_RATE)


def _ratio(trace: Trace, i: int, ratio: float, cause: str, fix: remedies.Remedy) -> Finding:
    says = f"the norm of one update is {number(ratio)} times that of the parameter"
    name = trace.layout.param_names[i]
    return finding(
        "update_ratio",
        name,
        ratio > 1,
        says,
        remedies=(fix,),
        cause=cause,
        update_over_weight=ratio,
    )


def _is_swallowed(trace: Trace, known: Known, leaf: int, ratio: float) -> bool:
    if known.leaves and not np.isnan(known.leaves[leaf].swallowed):
        return known.leaves[leaf].swallowed > MOST_STAY
    spacing = float(jnp.finfo(trace.layout.leaves[leaf].dtype).eps)
    return spacing > UPDATE_RANGE[0] and ratio < SWALLOWED * spacing


def _swallowed(trace: Trace, known: Known, i: int, leaf: int, ratio: float) -> Finding:
    dtype = trace.layout.leaves[leaf].dtype
    spacing = float(jnp.finfo(dtype).eps)
    says = (
        f"the norm of one update is {number(ratio)} times that of the parameter, and {dtype} tells "
    )
    says += f"numbers apart by {number(spacing)} of their size: "
    share = known.leaves[leaf].swallowed if known.leaves else math.nan
    most = "most" if math.isnan(share) else percent(share)
    says += f"{most} of the weights stay what they are"
    name = trace.layout.param_names[i]
    fixes = (remedies.RATE_OF_UPDATES,) if dtype == "float32" else ()
    return finding(
        "precision",
        name,
        True,
        says,
        remedies=fixes,
        cause="rounding",
        update_over_weight=ratio,
        spacing=spacing,
    )


def _is_kernel(trace: Trace, leaf: int) -> bool:
    return len(trace.layout.leaves[leaf].own_shape) >= 2


def _starts_small(trace: Trace, leaf: int) -> bool:
    shape, leaves = trace.layout.leaves[leaf].own_shape, trace.layout.param_leaves
    weights = [w for w, of in zip(trace.params.weight, leaves, strict=True) if of == leaf]
    rms = max(weights) / math.sqrt(max(1, math.prod(shape)))
    return rms * math.sqrt(math.prod(shape[:-1])) < SMALL_START
