"""The budget: who lost the gradient, and how much of it."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing.lineage import Instance, RowId
from vanishing.probing.patterns import SiteKind
from vanishing.probing.sites import Site

EQUAL = 0.999
"""Two norms of which one is this share of the other are equal: they differ by rounding."""


class Charge(NamedTuple):
    """What one row did to the gradient on its way back."""

    row: RowId
    name: str
    gain: float  # decades: log10 of cotangent RMS before the row's op over that after it


class Budget(NamedTuple):
    """The gradient's way back along one path, and what each row on it cost.

    A gain is the log10 of a ratio of cotangent RMS: at the row that a signal comes from, over the
    row itself. Under 0 the gradient shrank there. What lies between two rows without being one,
    such as a mean over positions at `level="layer"`, is charged to the row after it; `level="op"`
    tells them apart. Along the path the gains add up exactly to `total`. Where a signal branches,
    the cotangent at the branch point is the sum of what comes back from all its users, so the
    ratio there is that sum over one contribution: it says what the gradient was worth before and
    after, not what the op's own Jacobian would do to it alone. At a point with several sources
    the path goes on to the skip connection, which the other terms of the sum are computed from; of
    several, or where there is none, to the one whose cotangent has the largest norm, and of equals
    to the one with the longest way back; at a product of signals to the latter at once. A way that
    only ends in cotangents of 0 counts where no other leads on, and so does one that begins later
    than another of twice its length (at the input of the last step, in a recurrent network).
    """

    charges: tuple[Charge, ...]  # in forward order
    first: str  # name of the first row of the path
    last: str
    total: float  # decades from the last row back to the first
    by_kind: dict[str, float]
    by_param: dict[str, float]
    by_place: dict[str, float]  # op and source line
    stopped: str  # where the path ends in a cotangent of 0 or one that is not finite, or ""

    def sentence(self) -> str:
        """The budget in one sentence."""
        if self.stopped:
            return self.stopped
        if not self.charges:
            return "There are not enough rows to say where the gradient was lost."
        sign = 1 if self.total < 0 else -1
        ranked = sorted(self.by_place.items(), key=lambda item: sign * item[1])
        (main, gain), (other, back) = ranked[0], ranked[-1]
        sentence = (
            f"Of the {abs(self.total):.1f} decades {_verb(self.total)} between {self.last} and "
            f"{self.first}, {abs(gain):.1f} were {_verb(gain)} in {main}"
        )
        if sign * back > 0.1 * abs(self.total) and abs(back) >= 0.05:
            return f"{sentence}, while {abs(back):.1f} were {_verb(back)} in {other}."
        return f"{sentence}."

    def __str__(self) -> str:
        lines = [self.sentence()]
        for title, charges in (
            ("kind", self.by_kind),
            ("parameter", self.by_param),
            ("place", self.by_place),
        ):
            lines.append(f"  decades by {title}:")
            ranked = sorted(charges.items(), key=lambda item: -abs(item[1]))
            few = len(ranked) if len(ranked) <= _MOST else _MOST - 1
            lines += [f"    {gain:+8.2f}  {name}" for name, gain in ranked[:few]]
            if rest := [gain for _, gain in ranked[few:]]:
                each = f"{len(rest)} others, each at most {abs(rest[0]):.2f}"
                lines.append(f"    {sum(rest):+8.2f}  {each}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Budget({self.sentence()})"


_MOST = 8  # lines of each list that are printed; `by_kind` and the others hold all


def budget(
    instances: Sequence[Instance], sites: Sequence[Site], names: Sequence[str], rms: np.ndarray
) -> Budget:
    """The budget of a path back through rows with cotangents of this RMS."""
    sizes = np.array([math.prod(sites[instance.site].shape) for instance in instances])
    of_rows = [sites[instance.site] for instance in instances]
    factors = {
        row
        for row, site in enumerate(of_rows)
        if site.kind != SiteKind.RESIDUAL and site.op != "attention"
    }
    path, stopped = _path(instances, names, rms, sizes, factors)
    charges = tuple(
        Charge(row, names[row], math.log10(rms[parent]) - math.log10(rms[row]))
        for parent, row in itertools.pairwise(path)
    )
    sums: tuple[dict[str, float], ...] = tuple(defaultdict(float) for _ in range(3))
    for charge in charges:
        site = sites[instances[charge.row].site]
        groups = (site.kind, site.param or "ops without a parameter", site.place)
        for total, group in zip(sums, groups, strict=True):
            total[group] += charge.gain
    by_kind, by_param, by_place = map(dict, sums)
    return Budget(
        charges=charges,
        first=names[path[0]] if path else "",
        last=names[path[-1]] if path else "",
        total=sum(charge.gain for charge in charges),
        by_kind=by_kind,
        by_param=by_param,
        by_place=by_place,
        stopped=stopped,
    )


def _verb(gain: float) -> str:
    return "lost" if gain < 0 else "gained"


def _path(instances, names, rms, sizes, factors) -> tuple[list[RowId], str]:
    """Rows from the first to the last, searched from the loss back.

    The last is the one with the largest norm of a cotangent among those that no row follows; a
    single number is none where there are others.
    """
    instances = [i._replace(parents=_bridged(i.parents, instances, rms)) for i in instances]
    norms = rms * np.sqrt(sizes)
    alive = [RowId(row) for row in range(len(instances)) if rms[row] > 0 and np.isfinite(rms[row])]
    if not alive:
        return [], "No row has a finite gradient other than 0."
    followed = {parent for row in alive for parent in instances[row].parents}
    ends = [row for row in alive if row not in followed and sizes[row] > 1] or alive[-1:]
    path, row, stopped = [], max(ends, key=lambda row: norms[row]), ""
    if any(np.isinf(rms[later]) for later, i in enumerate(instances) if row in i.parents):
        stopped = f"The gradient is not finite after {names[row]}."
    ways = _ways(instances, rms)
    while True:
        path.append(row)
        parents = [parent for parent in instances[row].parents if not np.isnan(rms[parent])]
        if not parents:
            return path[::-1], stopped
        onward = _leading_on([parent for parent in parents if ways[parent].rows], ways)
        if not onward:
            reason = "exactly 0" if rms[parents[0]] == 0 else "not finite"
            stopped = (
                f"The gradient at {names[parents[0]]} is {reason}, while that at {names[row]}, "
            )
            return path[::-1], stopped + "which comes after it, is not."
        if row in factors:  # of which the norms say how large the others are
            longest = max(ways[parent].rows for parent in onward)
            onward = [parent for parent in onward if ways[parent].rows == longest]
        else:
            onward = _streams(onward, instances) or onward
        most = max(norms[parent] for parent in onward)
        equals = [parent for parent in onward if norms[parent] >= EQUAL * most]
        row = max(equals, key=lambda parent: ways[parent].rows)


def _streams(parents: Sequence[RowId], instances: Sequence[Instance]) -> list[RowId]:
    """Of what is added, the skip connections: those that another is computed from."""
    return [p for p in parents if any(_follows(q, p, instances) for q in parents if q > p)]


def _follows(row: RowId, earlier: RowId, instances: Sequence[Instance]) -> bool:
    """Is a row computed from an earlier one?"""
    seen, todo = {row}, [row]
    while todo:
        new = {p for p in instances[todo.pop()].parents if p >= earlier} - seen
        if earlier in new:
            return True
        seen |= new
        todo += new
    return False


def _bridged(
    parents: Sequence[RowId], instances: Sequence[Instance], rms: np.ndarray
) -> tuple[RowId, ...]:
    """Parents, or where none has a gradient that is finite, the rows with one before a nan.

    A select, or a slope of 0, absorbs the nan of what comes after it.
    """
    if any(rms[row] > 0 and np.isfinite(rms[row]) for row in parents):
        return tuple(parents)
    usable, seen, todo = [], set(parents), list(parents)
    while todo:
        row = todo.pop()
        is_broken = not np.isfinite(rms[row])
        new = [p for p in instances[row].parents if is_broken or not np.isfinite(rms[p])]
        usable += [p for p in new if rms[p] > 0 and np.isfinite(rms[p])]
        todo += set(new) - seen
        seen |= set(new)
    return tuple(sorted(set(usable))) or tuple(parents)


class _Way(NamedTuple):
    """All ways back from a row, along rows with a gradient."""

    leads_on: bool  # does one lead to where the network begins, and not to a gradient of 0?
    rows: int  # of the longest; 0 of a row without a gradient
    first: int  # the earliest row


def _ways(instances: Sequence[Instance], rms: np.ndarray) -> list[_Way]:
    ways: list[_Way] = []
    for row, instance in enumerate(instances):
        if not (rms[row] > 0 and np.isfinite(rms[row])):
            ways.append(_Way(False, 0, row))
            continue
        parents = [parent for parent in instance.parents if not np.isnan(rms[parent])]
        before = [ways[parent] for parent in _leading_on(parents, ways)]
        ways.append(
            _Way(
                leads_on=not parents or any(way.leads_on for way in before),
                rows=1 + max((way.rows for way in before), default=0),
                first=min((way.first for way in before), default=row),
            )
        )
    return ways


def _leading_on(rows: Sequence[RowId], ways: Sequence[_Way]) -> list[RowId]:
    """Of these rows those that no other leads on from further."""
    rows = [row for row in rows if ways[row].leads_on] or list(rows)
    longest = max((ways[row].rows for row in rows), default=0)
    first = min((ways[row].first for row in rows), default=0)
    return [row for row in rows if ways[row].first == first or 2 * ways[row].rows >= longest]
