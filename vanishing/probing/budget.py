"""The budget: who lost the gradient, and how much of it."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing.lineage import Instance, RowId
from vanishing.probing.sites import Site


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
    the path goes on to those that lead back furthest (through time, in a recurrent network, not
    to the input of the last step), and of them to the one whose cotangent has the largest norm
    (the skip connection, in a residual network).
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
            lines += [f"    {gain:+8.2f}  {name}" for name, gain in ranked]
        return "\n".join(lines)


def budget(
    instances: Sequence[Instance], sites: Sequence[Site], names: Sequence[str], rms: np.ndarray
) -> Budget:
    """The budget of a path back through rows with cotangents of this RMS."""
    sizes = np.array([math.prod(sites[instance.site].shape) for instance in instances])
    path, stopped = _path(instances, names, rms, sizes)
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


def _path(instances, names, rms, sizes) -> tuple[list[RowId], str]:
    """Rows from the first to the last, searched from the loss back.

    The last is the one with the largest norm of a cotangent among those that no row follows; a
    single number, such as a penalty, is none where there are others.
    """
    norms = rms * np.sqrt(sizes)
    alive = [RowId(row) for row in range(len(instances)) if rms[row] > 0 and np.isfinite(rms[row])]
    if not alive:
        return [], "No row has a finite gradient other than 0."
    followed = {parent for row in alive for parent in instances[row].parents}
    ends = [row for row in alive if row not in followed and sizes[row] > 1] or alive[-1:]
    path, row, stopped = [], max(ends, key=lambda row: norms[row]), ""
    furthest = _furthest(instances)
    after = [later for later, instance in enumerate(instances) if row in instance.parents]
    if after and not np.isnan(rms[after]).all():
        stopped = f"The gradient is not finite, or exactly 0, after {names[row]}."
    while True:
        path.append(row)
        parents = [parent for parent in instances[row].parents if not np.isnan(rms[parent])]
        if not parents:
            return path[::-1], stopped
        first = min(furthest[parent] for parent in parents)
        parent = max((p for p in parents if furthest[p] == first), key=lambda p: norms[p])
        if not (rms[parent] > 0 and np.isfinite(rms[parent])):
            reason = "exactly 0" if rms[parent] == 0 else "not finite"
            return path[::-1], f"Before {names[row]} the gradient is {reason}: {names[parent]}."
        row = parent


def _furthest(instances: Sequence[Instance]) -> list[int]:
    """The first row of all that each row's signal comes from."""
    furthest: list[int] = []
    for row, instance in enumerate(instances):
        furthest.append(min([row, *(furthest[parent] for parent in instance.parents)]))
    return furthest
