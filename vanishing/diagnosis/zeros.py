"""Gradients that are nothing: exactly 0 for whole parameters, or a rounding error."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vanishing.probing import SiteKind, Trace
from vanishing.probing.layout import USED
from vanishing.probing.row_names import is_within

UNDERFLOW = 1e3
"""Times the smallest normal number: what is 0 after a gradient under that has underflowed."""


class Cut(NamedTuple):
    """A place that lets no gradient back, and the parameters that have none for that."""

    where: str  # a nonlinearity, "every row", or "" where it is none of the trace's rows
    parameters: tuple[str, ...]


def cuts(trace: Trace) -> list[Cut]:
    """Where a live network lets no gradient back at all.

    A parameter counts whose own gradient is exactly 0 and that of all its rows as well: a layer
    that sees only zeros is another matter, and so is a bias in front of a normalisation. One that
    only waits for a later weight or a gate to leave its initial 0 is healthy.
    """
    rms = np.asarray(trace.backward.rms)
    if not (rms > 0).any():
        names = tuple(name for name, _ in _without_gradient(trace))
        return [Cut("every row", names)] if names and (rms == 0).any() else []
    after = _followers(trace)
    parameters: dict[str, list[str]] = defaultdict(list)
    for name, rows in _without_gradient(trace):
        rows = [row for row in rows if not np.isnan(rms[row])]
        if not rows or rms[rows].any():
            continue
        dead, edge, reaches_end = _dead_region(rows, after, rms)
        if any(_is_waiting(trace, row, dead) for row in edge):
            continue
        kinds = {trace.sites[row].kind for row in edge}
        is_slope = kinds == {SiteKind.NONLINEARITY} and not reaches_end
        parameters[trace.names[min(edge)] if is_slope else ""].append(name)
    return [Cut(where, tuple(names)) for where, names in parameters.items()]


def _followers(trace: Trace) -> list[list[int]]:
    after: list[list[int]] = [[] for _ in trace.layout.instances]
    for row, instance in enumerate(trace.layout.instances):
        for parent in instance.parents:
            after[parent].append(row)
    return after


def _without_gradient(trace: Trace) -> Iterator[tuple[str, list[int]]]:
    """Each parameter, or layer of one, whose gradient is exactly 0, and the rows it is used in."""
    gradients = iter(trace.params.gradient)
    for leaf in trace.layout.leaves:
        for index in np.ndindex(leaf.lengths):
            if next(gradients) == 0 and leaf.reach == USED:
                name = leaf.label.format(*index)
                yield name, _rows_of(trace, name, leaf.lengths, index)


def _rows_of(trace: Trace, name: str, lengths: Sequence[int], index: Sequence[int]) -> list[int]:
    stack = set(zip(lengths, index, strict=True))
    return [
        row
        for row, (site, place) in enumerate(zip(trace.sites, trace.layout.instances, strict=True))
        if site.param
        and is_within(name, site.param)
        and stack <= set(zip(site.lengths, place.indices, strict=True))
    ]


def _dead_region(
    rows: Sequence[int], after: Sequence[Sequence[int]], rms: np.ndarray
) -> tuple[set[int], set[int], bool]:
    """The rows without a gradient from these on, those that follow them, and if the loss does."""
    dead, edge, reaches_end, todo = set(rows), set(), False, list(rows)
    while todo:
        followers = [row for row in after[todo.pop()] if not np.isnan(rms[row])]
        reaches_end |= not followers
        edge.update(row for row in followers if rms[row] != 0)
        new = {row for row in followers if rms[row] == 0} - dead
        dead |= new
        todo += new
    return dead, edge, reaches_end


def _is_waiting(trace: Trace, row: int, dead: set[int]) -> bool:
    """Does a row let nothing back as long as a weight or a gate is 0, or by an underflow?"""
    site, signal = trace.sites[row], trace.forward.rms
    if trace.backward.rms[row] < UNDERFLOW * float(jnp.finfo(site.dtype).tiny):
        return True
    gates = [parent for parent in trace.layout.instances[row].parents if parent not in dead]
    zeros = [
        name
        for name, weight in zip(trace.layout.param_names, trace.params.weight, strict=True)
        if weight == 0
    ]
    named = {site.param for site in trace.sites if site.param}
    return bool((signal[gates] == 0).any()) or any(
        is_within(name, site.param) or not any(is_within(name, other) for other in named)
        for name in zeros
    )


def rounding(trace: Trace) -> set[int]:
    """Rows that lead to the loss only where others bring it a gradient that hides theirs.

    What is under their rounding error may be all that is left of terms that cancel.
    """
    rms, after = trace.backward.rms, _followers(trace)
    norms = rms * np.sqrt([np.prod(site.shape) for site in trace.sites])
    most = max((norms[row] for row in range(len(rms)) if not after[row]), default=0.0)
    hidden: set[int] = set()
    for row in reversed(range(len(rms))):
        epsilon = float(jnp.finfo(trace.sites[row].dtype).eps)
        if hidden.issuperset(after[row]) if after[row] else norms[row] < epsilon * most:
            hidden.add(row)
    return hidden


def measured(trace: Trace) -> np.ndarray:
    """Which rows have numbers."""
    return np.any(~np.isnan(np.stack([*trace.forward, *trace.backward])), axis=0)


def unmeasured(trace: Trace) -> Iterator[str]:
    """What a diagnosis needs, and the probe was not asked for."""
    if trace.ran().any() and np.isnan([*trace.forward.rms, *trace.backward.rms]).all():
        yield 'the size of signal and gradient: ask the probe for the summary "rms"'
    if len(trace.params.gradient) and np.isnan(trace.params.gradient).all():
        yield "which parameters have a gradient: ask the probe for params=True"
