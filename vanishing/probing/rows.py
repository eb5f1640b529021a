"""The summaries of all rows, from what the taps of one replay let out."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vanishing._numerics import is_cut, uncut
from vanishing.probing import slopes, summary
from vanishing.probing.groups import LIMIT, in_groups
from vanishing.probing.jaxpr import ValueId
from vanishing.probing.layout import Layout
from vanishing.probing.patterns import SiteKind
from vanishing.probing.sites import Selected
from vanishing.probing.summary import BackwardSummary, ForwardSummary

EXTRA_MEMORY = 0.15  # of what the signals of all rows take, for stacks of rows

# Of smaller rows all sizes are computed, of their cotangents too, so that one set of kernels serves
# all rows of a size: a kernel takes as long to compile as it takes to run a thousand times.
SMALL = 16 * 2**10  # bytes

# Those that do not depend on the shape.
SIZES = ("largest", "squares", "counted", "total", "broken", "zeros")
SHAPED = ("dead_units", "similarity")
RAN = "ran"  # 0 where a row in place did not run
WAYS = (ForwardSummary, BackwardSummary)


class Slope(NamedTuple):
    """An elementwise function of a program whose slope is wanted."""

    function: Callable
    largest: float  # slope
    signature: Hashable  # equal for the same function at another place

    def saturated(self, roots: Float[Array, "rows *shape"]) -> Bool[Array, "rows *shape"]:
        """Where the slope is next to nothing, of a stack of what the function takes."""
        slope = slopes.slope(jax.vmap(self.function), roots)
        return jnp.abs(slope) < summary.SATURATED * self.largest


class LetOut(NamedTuple):
    """What the tap of a row of the outermost frame lets out."""

    signal: Array
    root: Array | None  # what the slope's function takes, where it is wanted
    cotangent: Array
    slope: Slope | None


class Rows(NamedTuple):
    """The rows of a plan, and which of their entries are wanted."""

    selected: Sequence[Selected]
    layout: Layout
    dtype: Any  # of the entries
    wanted: tuple[str, ...]

    def measures(self, way: type) -> tuple[str, ...]:
        """The names of the measures of one pass."""
        return self.measures_of(*(name for name in way._fields if name in self.wanted))

    def measures_of(self, *names: str) -> tuple[str, ...]:
        """The names of the measures of these entries."""
        return summary.measures_of(names, sizes=not summary.SIZES.isdisjoint(self.wanted))

    def measured(self, way: type, kind: SiteKind) -> tuple[str, ...]:
        """The names of those that a row of this kind has."""
        return tuple(m for m in self.measures(way) if summary.is_measured(m, kind))

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of the measures of both passes that do not depend on the shape."""
        names = (name for way in WAYS for name in self.measures(way) if name in SIZES)
        return tuple(dict.fromkeys(names))

    def limit(self) -> int:
        """The bytes that a stack of rows may take: a share of what the rows' signals take."""
        signals = sum(math.prod(s.site.lengths) * _bytes(s) for s in self.selected)
        return max(LIMIT, int(EXTRA_MEMORY * signals) // 8)


def summaries(
    rows: Rows,
    let_out: Mapping[ValueId, LetOut],
    in_place: Mapping[ValueId, tuple[Array, Array]],
) -> list[Any]:
    """The summaries of both passes, with all rows in forward order.

    Args:
      rows: which they are.
      let_out: what the taps of the rows of the outermost frame let out.
      in_place: of all other sites the measures of both passes, with axes for the places of a site
        and a last one for the measures; that of the forward pass ends with `RAN`.
    """
    if not rows.selected:
        return [way(*[jnp.zeros(0, rows.dtype)] * len(way._fields)) for way in WAYS]
    numbers = _Numbers(rows)
    outside = [s for s in rows.selected if s.value in let_out]
    inside = [s for s in rows.selected if s.value in in_place]
    if outside:
        _add_sizes(numbers, rows, outside, let_out)
        _add_saturated(numbers, rows, outside, let_out)
        _add_shaped(numbers, rows, outside, let_out)
    if inside:
        _add_in_place(numbers, rows, inside, in_place)
    return [numbers.summary(way) for way in WAYS]


def _add_sizes(numbers: "_Numbers", rows: Rows, outside: Sequence[Selected], let_out) -> None:
    """The measures of signals and cotangents that do not depend on their shape."""
    together, limit = rows.sizes, rows.limit()
    items, keys, places = [], [], []
    for s in outside:
        size = _bytes(s)
        for way, x in zip(WAYS, (let_out[s.value].signal, let_out[s.value].cotangent), strict=True):
            measured = [m for m in rows.measured(way, s.site.kind) if m in SIZES]
            if measured:
                is_kept = 2 * size > limit or is_cut(x)
                items.append(x[None] if is_kept else x.reshape(1, x.size))
                keys.append(together if size < SMALL else tuple(measured))
                places.append((way, s, measured))
    if not items:
        return

    def measure(key, x):
        return summary.complete(summary.measure(x, key), together, len(x), rows.dtype)

    vectors, starts = in_groups(measure, items, keys, limit)
    numbers.add(
        dict(zip(together, vectors, strict=True)),
        [(*place, start) for place, start in zip(places, starts.tolist(), strict=True)],
    )


def _add_saturated(numbers: "_Numbers", rows: Rows, outside: Sequence[Selected], let_out) -> None:
    """The fractions of signals with a slope that is next to nothing."""
    sloped = [s for s in outside if let_out[s.value].slope]
    if not sloped:
        return
    roots = [let_out[s.value].root[None] for s in sloped]
    # a function of the program is one of arrays of a shape
    keys = [
        (let_out[s.value].slope.signature, root.shape)
        for s, root in zip(sloped, roots, strict=True)
    ]
    slope_of = {key: let_out[s.value].slope for s, key in zip(sloped, keys, strict=True)}

    def measure(key, roots):
        return summary.fraction(slope_of[key].saturated(roots), rows.dtype)

    vector, starts = in_groups(measure, roots, keys, rows.limit())
    name = "saturated"
    numbers.add(
        {name: vector},
        [
            (ForwardSummary, s, (name,), start)
            for s, start in zip(sloped, starts.tolist(), strict=True)
        ],
    )


def _add_shaped(numbers: "_Numbers", rows: Rows, outside: Sequence[Selected], let_out) -> None:
    """The measures that depend on which axes hold units and which examples."""
    names = tuple(m for m in rows.measures(ForwardSummary) if m in SHAPED)
    shaped = [s for s in outside if s.site.shape]
    if not names or not shaped:
        return

    def measure(_, x):
        return summary.complete(summary.measure(x, names), names, len(x), rows.dtype)

    signals = [uncut(let_out[s.value].signal)[None] for s in shaped]
    vectors, starts = in_groups(measure, signals, limit=rows.limit())
    numbers.add(
        dict(zip(names, vectors, strict=True)),
        [
            (ForwardSummary, s, names, start)
            for s, start in zip(shaped, starts.tolist(), strict=True)
        ],
    )


def _add_in_place(numbers: "_Numbers", rows: Rows, inside: Sequence[Selected], in_place) -> None:
    """What was measured in place."""
    for i, way in enumerate(WAYS):
        names = (*rows.measures(way), *(() if i else (RAN,)))
        if not names:
            continue
        tables = [in_place[s.value][i].reshape(-1, len(names)) for s in inside]
        starts = np.cumsum([0, *map(len, tables)]).tolist()
        measured = dict(zip(names, jnp.unstack(jnp.concatenate(tables).T), strict=True))
        absent = jnp.full((starts[-1],), summary.unmeasured(), rows.dtype)
        measured = dict.fromkeys(rows.sizes, absent) | measured
        numbers.add(
            measured,
            [(way, s, names, start) for s, start in zip(inside, starts, strict=False)],
        )


class _Numbers:
    """Numbers of rows, in one vector for each measure, and where those of each pass are in it."""

    def __init__(self, rows: Rows):
        self.rows = rows
        lengths = [math.prod(s.site.lengths) for s in rows.selected]
        starts = np.cumsum([0, *lengths]).tolist()
        self.total = starts[-1]
        self.first = {s.value: start for s, start in zip(rows.selected, starts, strict=False)}
        self.order = rows.layout.order(starts)
        self.parts: dict[str, list[Array]] = defaultdict(list)
        self.elements: list[np.ndarray] = []  # of each number of the sizes' vectors
        self.places: dict[tuple[type, str], np.ndarray] = {}  # -1 where there is none

    def add(
        self,
        measured: Mapping[str, Float[Array, "..."]],
        places: Iterable[tuple[type, Selected, Sequence[str], int]],
    ) -> None:
        """Adds vectors of some measures, of all sizes or of none.

        Args:
          measured: vectors of one length.
          places: pass and site of the rows whose numbers these are, the names of those that they
            have, and where in the vectors the first of them is.
        """
        before = {name: sum(map(len, self.parts[name])) for name in measured}
        elements = np.zeros(len(next(iter(measured.values()))))
        for name, vector in measured.items():
            self.parts[name].append(vector)
        for way, selected, names, start in places:
            length = math.prod(selected.site.lengths)
            elements[start : start + length] = math.prod(selected.site.shape)
            first = self.first[selected.value]
            for name in names:
                place = self.places.setdefault((way, name), np.full(self.total, -1))
                place[first : first + length] = before[name] + start + np.arange(length)
        if set(self.rows.sizes) & set(measured):
            self.elements.append(elements)

    def summary(self, way: type) -> Any:
        """The summary of a pass, with all rows in forward order."""
        columns = {}
        for name in way._fields:
            measure = self.rows.measures_of(name)[0]
            if name in self.rows.wanted and (place := self.places.get((way, measure))) is not None:
                columns[name] = self._take(name, place)
        if (ran := self.places.get((ForwardSummary, RAN))) is not None:
            stopped = self._take(RAN, ran) == 0
            mark = summary.unmeasured()
            columns = {name: jnp.where(stopped, mark, x) for name, x in columns.items()}
        columns = summary.complete(columns, way._fields, self.total, self.rows.dtype)
        return way(*map(jax.lax.stop_gradient, columns))

    def _take(self, name: str, place: np.ndarray) -> Array:
        table, starts = self._table
        place = np.where(place < 0, len(table) - 1, starts[name] + place)[self.order]
        return table.at[place].get(mode="promise_in_bounds", wrap_negative_indices=False)

    @functools.cached_property
    def _table(self) -> tuple[Array, dict[str, int]]:
        """All entries in one vector, which ends with the mark, and where each of them starts.

        Since all that is taken from it is taken by the same operation, that is compiled once.
        """
        vectors = {name: jnp.concatenate(parts) for name, parts in self.parts.items()}
        sizes = {name: vectors.pop(name) for name in self.rows.sizes if name in vectors}
        if sizes:
            vectors |= summary.entries(sizes, np.concatenate(self.elements))
        starts = np.cumsum([0, *map(len, vectors.values())]).tolist()
        mark = jnp.full((1,), summary.unmeasured(), self.rows.dtype)
        table = jnp.concatenate([*vectors.values(), mark])
        return table, dict(zip(vectors, starts, strict=False))


def _bytes(selected: Selected) -> int:
    """What one signal of a site takes."""
    return math.prod(selected.site.shape) * jnp.dtype(selected.site.dtype).itemsize
