"""Gradients that are nothing: exactly 0 for whole parameters, or a rounding error."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vanishing.probing import SiteKind, Trace
from vanishing.probing.layout import USED
from vanishing.probing.row_names import is_within

UNDERFLOW = 1e3
"""Times the smallest normal number: what is 0 after a gradient under that has underflowed."""


_ARE_PLACES = {SiteKind.NONLINEARITY, SiteKind.NORMALIZATION}  # that can let nothing back


class Cut(NamedTuple):
    """A place that lets no gradient back, and the parameters that have none for that."""

    where: str  # a row that is no product, "every row", or "" where it is none of the trace's rows
    parameters: tuple[str, ...]


def cuts(trace: Trace, stuck: Collection[str]) -> list[Cut]:
    """Where a live network lets no gradient back at all.

    A parameter counts whose own gradient is exactly 0 and that of all its rows as well: a layer
    that sees only zeros is another matter, and so is a bias in front of a normalisation. One that
    only waits for a later weight or a gate to leave its initial 0 is healthy. Those that
    `stuck_at_zero` names are left out.
    """
    rms = np.asarray(trace.backward.rms)
    if not (rms > 0).any():
        names = tuple(name for name, _ in _without_gradient(trace))
        return [Cut("every row", names)] if names and (rms == 0).any() else []
    after = followers(trace)
    parameters: dict[str, list[str]] = defaultdict(list)
    for name, rows in _without_gradient(trace):
        rows = [row for row in rows if not np.isnan(rms[row])]
        if not rows or rms[rows].any() or name in stuck:
            continue
        dead, edge, reaches_end = _dead_region(rows, after, rms)
        if any(_is_waiting(trace, row, dead) for row in edge):
            continue
        kinds = {trace.sites[row].kind for row in edge}
        is_place = len(kinds) == 1 and kinds < _ARE_PLACES and not reaches_end
        parameters[trace.names[min(edge)] if is_place else ""].append(name)
    return [Cut(where, tuple(names)) for where, names in parameters.items()]


def followers(trace: Trace) -> list[list[int]]:
    """For each row those that come right after it."""
    after: list[list[int]] = [[] for _ in trace.layout.instances]
    for row, instance in enumerate(trace.layout.instances):
        for parent in instance.parents:
            after[parent].append(row)
    return after


def stuck_at_zero(trace: Trace) -> list[str]:
    """Parameters without a gradient for ever, since each is multiplied with another that is 0.

    What keeps a gradient at 0 is the kernel of 0 of a later layer, or one that makes the layer's
    own input 0. Where that kernel has a gradient, one step ends it (an adapter, a head of zeros);
    where it has none, for the same reason, nothing ever does.
    """
    stuck, after = {}, followers(trace)
    for name, rows in _without_gradient(trace):
        if keepers := _keepers(trace, rows, after):
            stuck[name] = keepers
    while free := [name for name, keepers in stuck.items() if not keepers <= stuck.keys()]:
        for name in free:
            del stuck[name]
    return list(stuck)


def _keepers(trace: Trace, rows: Sequence[int], after: Sequence[Sequence[int]]) -> set[str]:
    """The parameters of zeros that keep the gradient of one that is used in these rows at 0."""
    rms, signal = np.asarray(trace.backward.rms), np.asarray(trace.forward.rms)
    rows = [row for row in rows if not np.isnan(rms[row])]
    if not rows:
        return set()
    if not rms[rows].any():
        dead, edge, _ = _dead_region(rows, after, rms)
        return {name for row in edge for name in _factors_of_zero(trace, row, dead)}
    keepers = set()
    for row in rows:
        parents = trace.layout.instances[row].parents
        if rms[row] and parents and not signal[list(parents)].any():
            keepers |= {name for parent in parents for name in makers_of_zero(trace, parent)}
    return keepers


def _factors_of_zero(trace: Trace, row: int, dead: Collection[int]) -> set[str]:
    """The parameters of zeros that a row multiplies what comes from a dead region with."""
    gates = _gates(trace, row, dead)
    makers = (name for gate in gates for name in makers_of_zero(trace, gate))
    return _own_zeros(trace, row).union(makers)


def _gates(trace: Trace, row: int, dead: Collection[int]) -> list[int]:
    """The rows that a row may multiply what comes from a dead region with."""
    return [parent for parent in trace.layout.instances[row].parents if parent not in dead]


def makers_of_zero(trace: Trace, row: int) -> set[str]:
    """The parameters of zeros that make the signal of a row exactly 0; none where it is not."""
    makers, seen, todo = set(), {row}, [row]
    while todo:
        row = todo.pop()
        if trace.forward.rms[row] != 0:
            continue
        own = _own_zeros(trace, row)
        makers |= own
        new = set() if own else set(trace.layout.instances[row].parents) - seen
        seen |= new
        todo += new
    return makers


def _own_zeros(trace: Trace, row: int) -> set[str]:
    """The parameters of zeros that the input of a row is multiplied with."""
    weights = dict(zip(trace.layout.param_names, trace.params.weight, strict=True))
    kernel, site = trace.layout.kernel(row), trace.sites[row]
    if kernel and weights.get(kernel) == 0:
        return {kernel}
    if trace.forward.rms[row] != 0 and (kernel or site.kind == SiteKind.NONLINEARITY):
        return set()  # what is 0 there is added
    own = {name for name in weights if site.param and is_within(name, site.param)}
    named = {other.param for other in trace.sites if other.param}
    own = set() if kernel else own  # a bias of 0 makes nothing 0 that a kernel multiplies
    own |= {name for name in weights if not any(is_within(name, other) for other in named)}
    empty = {name for name in own if weights[name] == 0}
    is_only_shifted = site.kind == SiteKind.NORMALIZATION and empty < own  # by an offset of 0
    return set() if is_only_shifted else empty


def _without_gradient(trace: Trace) -> Iterator[tuple[str, list[int]]]:
    """Each parameter, or layer of one, whose gradient is exactly 0, and the rows it is used in."""
    return users(trace, trace.params.gradient == 0)


def users(trace: Trace, chosen: Iterable[bool]) -> Iterator[tuple[str, list[int]]]:
    """Each chosen parameter, or layer of one, that has an effect, and the rows it is used in."""
    chosen = iter(chosen)
    for leaf in trace.layout.leaves:
        for index in np.ndindex(leaf.lengths):
            if next(chosen) and leaf.reach == USED:
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
    gates = [gate for gate in _gates(trace, row, dead) if trace.forward.rms[gate] == 0]
    gradients = dict(zip(trace.layout.param_names, trace.params.gradient, strict=True))
    return (
        _may_underflow(trace, row)
        or not all(makers_of_zero(trace, gate) for gate in gates)  # data, or a first state, are 0
        or any(gradients[name] != 0 for name in _factors_of_zero(trace, row, dead))
    )


def _may_underflow(trace: Trace, row: int) -> bool:
    """Is the gradient of a row so small that a product with it may be 0 by its dtype?"""
    return bool(trace.backward.rms[row] < UNDERFLOW * float(jnp.finfo(trace.sites[row].dtype).tiny))


def underflown(trace: Trace) -> tuple[list[str], float]:
    """Parameters without a gradient in float16, though what follows them has a tiny one; and that.

    Those whose gradient a parameter of 0 keeps at 0 are not among them.
    """
    rms, after = np.asarray(trace.backward.rms), followers(trace)
    names, sizes = [], []
    for name, rows in _without_gradient(trace):
        rows = [row for row in rows if not np.isnan(rms[row])]
        if not rows or rms[rows].any() or not any(trace.sites[r].dtype == "float16" for r in rows):
            continue
        dead, edge, _ = _dead_region(rows, after, rms)
        tiny = [float(rms[row]) for row in edge if _may_underflow(trace, row)]
        factors = {name for row in edge for name in _factors_of_zero(trace, row, dead)}
        if tiny and all("bias" in factor for factor in factors):  # which are added
            names.append(name)
            sizes += tiny
    return names, max(sizes, default=0.0)


def rounding(trace: Trace) -> set[int]:
    """Rows that lead to the loss only where others bring it a gradient that hides theirs.

    What is under their rounding error may be all that is left of terms that cancel.
    """
    rms, after = trace.backward.rms, followers(trace)
    norms = rms * np.sqrt([np.prod(site.shape) for site in trace.sites])
    most = max((norms[row] for row in range(len(rms)) if not after[row]), default=0.0)
    hidden: set[int] = set()
    for row in reversed(range(len(rms))):
        epsilon = float(jnp.finfo(trace.sites[row].dtype).eps)
        if hidden.issuperset(after[row]) if after[row] else norms[row] < epsilon * most:
            hidden.add(row)
    return hidden


def is_single(trace: Trace, row: int) -> bool:
    """Is a row taken over an axis of one number, which may be squeezed afterwards?"""
    rows = (row, *trace.layout.instances[row].parents)
    return any(trace.sites[each].shape[-1:] == (1,) for each in rows)


def measured(trace: Trace) -> np.ndarray:
    """Which rows have numbers."""
    return np.any(~np.isnan(np.stack([*trace.forward, *trace.backward])), axis=0)


def unmeasured(trace: Trace) -> Iterator[str]:
    """What a diagnosis needs, and the probe was not asked for."""
    if trace.ran().any() and np.isnan([*trace.forward.rms, *trace.backward.rms]).all():
        yield 'the size of signal and gradient: ask the probe for the summary "rms"'
    if len(trace.params.gradient) and not trace.layout.has_measured("params"):
        yield "which parameters have a gradient: ask the probe for params=True"
