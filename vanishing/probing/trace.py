"""The trace: what a probe measured, one row for each place of the network it looked at."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from vanishing import _text
from vanishing._extras import needs
from vanishing._numerics import is_cut, summary_dtype, uncut, whole
from vanishing._types import PyTree
from vanishing.probing import summary
from vanishing.probing.budget import Budget, budget
from vanishing.probing.groups import in_groups
from vanishing.probing.layout import Layout, LeafPlace
from vanishing.probing.sites import Site
from vanishing.probing.summary import BackwardSummary, ForwardSummary

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


class ParamNorms(NamedTuple):
    """L2 norms of each parameter leaf, and of each layer of a leaf with an axis of depth."""

    weight: Float[Array, "..."]
    gradient: Float[Array, "..."]
    update: Float[Array, "..."]  # nan until `with_updates`


@dataclasses.dataclass(frozen=True)
class Trace:
    """Signal and gradient at every row of a network, from one forward and one backward pass.

    A pytree: the arrays are leaves and everything else is static, so it leaves a `jax.jit`, and is
    stacked by `jax.vmap` and `jax.lax.scan`, whose axes then stand in front of the row axis. What
    is printed of such a stack is its median.

    It prints as a table; `legend` says what its columns are. `row` is the name of a layer or of
    what follows it, `op` what it computes, `at` the line of your own that made it. Of the signal h
    there: its `mean`, `rms` (root mean square), `max` (largest magnitude) and, at nonlinearities,
    `zeros` (fraction that is exactly 0), `saturated` (fraction with next to no slope) and `dead`
    (fraction of units that are 0 for the whole batch); `similar` is the mean cosine of two
    examples, 1 where all have become one. `dL/dh` is the gradient of the loss with respect to the
    signal, and `not finite` how many numbers are inf or nan.
    """

    forward: ForwardSummary  # each entry with a last axis of rows, in forward order
    backward: BackwardSummary  # likewise
    params: ParamNorms  # each entry with a last axis of leaves or their layers
    value: Float[Array, "..."] | Float[np.ndarray, "..."]  # the loss
    layout: Layout

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each row."""
        return self.layout.names

    @property
    def sites(self) -> tuple[Site, ...]:
        """The site of each row: its op, kind, parameter path, scope and source."""
        return tuple(self.layout.sites[i.site] for i in self.layout.instances)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be recorded, and why."""
        return self.layout.notes

    def __len__(self) -> int:
        return len(self.names)

    def single(self) -> "Trace":
        """The trace as NumPy arrays, and of a stack of traces the median.

        Of elements that are not finite it has the most that a trace of the stack has.

        Raises:
          ValueError: the trace is being traced, by `jax.jit`, `jax.vmap` or `jax.lax.scan`.
        """
        if isinstance(self.value, Tracer):
            raise ValueError(
                "this trace has no numbers inside of jit, vmap or scan; return it from there and "
                "look at it outside."
            )

        def collapse(x, axes: int):
            x = np.asarray(x, dtype=np.float64)
            x = np.where(x == summary.LOWEST, np.nan, x)
            extra = tuple(range(x.ndim - axes))
            present = ~np.isnan(x).all(axis=extra, keepdims=True)  # a median of nothing would warn
            median = np.nanmedian(np.where(present, x, 0.0), axis=extra, keepdims=True)
            return np.where(present, median, np.nan).reshape(x.shape[x.ndim - axes :])

        forward, backward, params = jax.tree.map(
            lambda x: collapse(x, 1), (self.forward, self.backward, self.params)
        )
        forward, backward = (
            group._replace(non_finite=_most(all_of.non_finite))
            for group, all_of in ((forward, self.forward), (backward, self.backward))
        )
        return Trace(
            forward=forward,
            backward=backward,
            params=params,
            value=collapse(self.value, 0),
            layout=self.layout,
        )

    def ran(self) -> Bool[np.ndarray, "row"]:
        """Which rows ran.

        Rows of branches that were not taken did not, nor did those of steps that a padded loop
        leaves out: which these are is known only now. A trace that does not count what is not
        finite cannot tell, and takes all rows for such that ran.
        """
        single = self.single()
        measured = ~np.isnan(np.stack([*single.forward, *single.backward]))
        counted = ~np.isnan(single.forward.non_finite) | ~np.isnan(single.backward.non_finite)
        return np.any(measured, axis=0) if counted.any() else np.ones(len(self), bool)

    def _shown(self) -> Bool[np.ndarray, "row"]:
        """Which rows are shown: all but those of steps of loops that did not run."""
        return np.array([not i.indices for i in self.layout.instances], bool) | self.ran()

    def _rms(self) -> tuple[np.ndarray, np.ndarray]:
        single = self.single()
        return np.asarray(single.forward.rms), np.asarray(single.backward.rms)

    def budget(self) -> Budget:
        """Who lost the gradient, in decades by kind of op, by parameter and by source line.

        See `vanishing.Budget` for what a ratio of cotangents means.
        """
        return budget(self.layout.instances, self.layout.sites, self.names, self._rms()[1])

    def with_updates(self, updates: PyTree) -> "Trace":
        """The trace with the norms of an optimiser's updates beside those of the weights.

        Args:
          updates: what `optimizer.update` returned, a tree like the parameters.

        Raises:
          ValueError: it has not one array, with the same axes of depth, for each parameter.
        """
        _check_updates(updates, self.layout.leaves)
        (norms,) = leaf_norms([updates], self.layout.leaves)
        return dataclasses.replace(self, params=self.params._replace(update=norms))

    def to_xarray(self) -> "xarray.Dataset":
        """The trace as a labelled `xarray.Dataset` with dimensions `row` and `parameter`.

        Axes that `vmap` or `scan` put in front are called `batch_0`, `batch_1`, and so on.
        """
        with needs("sweeps"):
            import xarray as xr

        lead = [f"batch_{i}" for i in range(np.ndim(self.value))]
        variables = {"loss": (lead, np.asarray(self.value))}
        for group, values in (("forward", self.forward), ("backward", self.backward)):
            for name, x in values._asdict().items():
                variables[f"{group}_{name}"] = ([*lead, "row"], np.asarray(x))
        for name, x in self.params._asdict().items():
            variables[f"{name}_norm"] = ([*lead, "parameter"], np.asarray(x))
        sites = self.sites
        coords = {"row": list(self.names), "parameter": list(self.layout.param_names)}
        coords |= {
            field: ("row", [getattr(site, field) for site in sites])
            for field in ("op", "kind", "param", "scope", "source")
        }
        return xr.Dataset(variables, coords, attrs={"notes": "\n".join(self.notes)})

    def annotate(self) -> str:
        """The user's own source with the RMS of signal and gradient beside the lines."""
        return _text.annotate([site.at for site in self.sites], *self._rms())

    def plot(self) -> "Figure":
        """Signal and gradient against row, as a matplotlib figure."""
        from vanishing import figures

        rows = np.flatnonzero(self._shown())
        forward, backward = self._rms()
        names = tuple(self.names[row] for row in rows)
        return figures.plot(names, forward[rows], backward[rows], self._title())

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        has_numbers = isinstance(self.value, jax.Array | np.ndarray)
        without = f"{_text.count(len(self), 'row')}, without numbers"
        is_traced = isinstance(self.value, Tracer)
        return f"Trace({self._title() if has_numbers and not is_traced else without})"

    def table(self, every_row: bool = False) -> str:
        """The trace as a table, as `print` shows it.

        Args:
          every_row: also those in the middle of long repeats, which `print` only counts.
        """
        if isinstance(self.value, Tracer):
            rows = _text.count(len(self), "row")
            return f"a trace of {rows}, without numbers inside of jit, vmap or scan"
        header, rows = self._cells()
        shown = rows if every_row else self._elided(rows)
        hint = [] if len(shown) == len(rows) else ["All rows: print(trace.table(every_row=True))"]
        notes = [f"Not recorded: {note}" for note in self.notes]
        return "\n".join([self._title(), _text.table(header, shown, texts=3), *hint, *notes])

    def legend(self) -> str:
        """What the columns of the table say, line by line."""
        header, _ = self._cells()
        return "\n".join(f"  {name.ljust(11)}  {_COLUMNS[name]}" for name in header)

    def _repr_html_(self) -> str:
        header, rows = self._cells()
        return _text.html_table(header, self._elided(rows), texts=3, caption=self._title())

    def _elided(self, rows: list[tuple[str, ...]]) -> list[Sequence[str]]:
        """The rows without the middle of long repeats, but with the first that are not finite."""
        single = self.single()
        shown = np.flatnonzero(self._shown())
        broken = [
            np.asarray(way.non_finite)[shown] > 0 for way in (single.forward, single.backward)
        ]
        first, last = np.flatnonzero(broken[0])[:1], np.flatnonzero(broken[1])[-1:]
        return _text.elided(rows, keep=[int(row) for row in (*first, *last)])

    def _title(self) -> str:
        count = int(np.prod(np.shape(self.value), dtype=int))
        broken = int(np.sum(~np.isfinite(np.asarray(self.value, np.float64))))
        also = f", {broken} not finite" if broken else ""
        of = f" (median of {count}{also})" if np.ndim(self.value) else ""
        loss = _text.number(float(self.single().value), 4) or "nan"
        absent = int(np.sum(~self._shown()))
        note = f" of {len(self)}; the others are steps that did not run" if absent else ""
        return f"loss {loss}{of}, {_text.count(len(self) - absent, 'row')}{note}"

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        single = self.single()
        forward, backward = single.forward, single.backward
        columns = [
            ("row", list(self.names)),
            ("op", [site.op for site in self.sites]),
            ("at", [os.path.basename(site.at) for site in self.sites]),
            ("mean", _sizes(forward.mean, forward.non_finite)),
            ("rms", _sizes(forward.rms, forward.non_finite)),
            ("max", _sizes(forward.largest, forward.non_finite)),
            ("zeros", list(map(_text.percent, forward.zeros))),
            ("saturated", list(map(_text.percent, forward.saturated))),
            ("dead", list(map(_text.percent, forward.dead_units))),
            ("similar", list(map(_text.number, forward.similarity))),
            ("dL/dh rms", _sizes(backward.rms, backward.non_finite)),
            ("dL/dh max", _sizes(backward.largest, backward.non_finite)),
            ("dL/dh zeros", list(map(_text.percent, backward.zeros))),
            ("not finite", list(map(_text.number, forward.non_finite + backward.non_finite))),
        ]
        optional = ("saturated", "dead", "similar", "not finite")
        nonempty = [
            (name, cells)
            for name, cells in columns
            if name not in optional or any(cell not in ("", "0") for cell in cells)
        ]
        rows = zip(*(cells for _, cells in nonempty), strict=True)
        cells_of_rows = [row for row, is_shown in zip(rows, self._shown(), strict=True) if is_shown]
        return tuple(name for name, _ in nonempty), cells_of_rows


_COLUMNS = {
    "row": "the layer, by the path of its parameters, and after a slash what follows it",
    "op": "the operations that the row stands for",
    "at": "the line of your own that made it",
    "mean": "of the signal h at the row",
    "rms": "of the signal: the root of its mean square",
    "max": "of the signal: its largest magnitude",
    "zeros": "fraction of the signal that is exactly 0, at nonlinearities",
    "saturated": "fraction with a slope under 1% of the nonlinearity's largest",
    "dead": "fraction of units that are 0 for the whole batch",
    "similar": "mean cosine of the signals of two examples; 1 where all have become one",
    "dL/dh rms": "of the gradient of the loss with respect to the signal",
    "dL/dh max": "likewise, its largest magnitude",
    "dL/dh zeros": "fraction of that gradient that is exactly 0",
    "not finite": "how many numbers of the signal and of its gradient are inf or nan",
}
_LEAVES = ("forward", "backward", "params", "value")


def _flatten(trace: Trace) -> tuple[list[tuple[Any, Any]], Layout]:
    leaves = [(jax.tree_util.GetAttrKey(name), getattr(trace, name)) for name in _LEAVES]
    return leaves, trace.layout


def _rebuild(layout: Layout, leaves: Iterable[Any]) -> Trace:
    """A trace of anything that JAX puts in the place of arrays, which `__init__` may refuse."""
    trace, leaves = object.__new__(Trace), tuple(leaves)
    arrays = jax.tree.leaves(leaves) if layout.marked else ()
    # Inside of a transformation the mark stays: JAX looks for nan in what leaves it.
    if arrays and all(isinstance(x, jax.Array) and not isinstance(x, Tracer) for x in arrays):
        with jax.debug_nans(False):
            leaves = _marks_to_nan(leaves)
    for name, leaf in zip((*_LEAVES, "layout"), (*leaves, layout), strict=True):
        object.__setattr__(trace, name, leaf)
    return trace


@jax.jit
def _marks_to_nan(leaves):
    return jax.tree.map(lambda x: jnp.where(x == summary.LOWEST, jnp.nan, x), leaves)


jax.tree_util.register_pytree_with_keys(Trace, _flatten, _rebuild)


def _most(counts) -> np.ndarray:
    """The largest of the counts of each row, over all axes in front; nan where there is none."""
    counts = np.asarray(counts, np.float64)
    largest = np.where(np.isnan(counts), -1, counts).max(axis=tuple(range(counts.ndim - 1)))
    return np.where(largest < 0, np.nan, largest)


def _sizes(values, non_finite) -> list[str]:
    """Numbers as text: nan where a signal held it, nothing where there was no signal."""
    pairs = zip(values, non_finite, strict=True)
    return [_text.number(value) or "nan" * bool(count > 0) for value, count in pairs]


def _check_updates(updates: PyTree, places: Sequence[LeafPlace]) -> None:
    shapes = list(map(np.shape, jax.tree.leaves(updates)))
    own = "pass the updates of optimizer.update, a tree like the parameters"
    if len(shapes) != len(places):
        names = ", ".join(place.label.format(*":" * len(place.lengths)) for place in places[:4])
        more = ", ..." if len(places) > 4 else ""
        raise ValueError(
            f"the number of arrays in updates is {len(shapes)}; it must be {len(places)}, one for "
            f"each of the parameters ({names}{more}): {own}."
        )
    for shape, place in zip(shapes, places, strict=True):
        if shape[: len(place.lengths)] != place.lengths:
            name = place.label.format(*":" * len(place.lengths))
            raise ValueError(
                f"updates has shape {shape} for {name}; it must begin with {place.lengths}: {own}."
            )


def leaf_norms(
    trees: Sequence[PyTree], leaves: tuple[LeafPlace, ...]
) -> list[Float[Array, "parameter"]]:
    """The norm of every leaf, and of every layer of a leaf with axes of depth, of several trees."""
    items = []
    for tree in trees:
        for leaf, place in zip(jax.tree.leaves(tree), leaves, strict=True):
            items.append(_as_rows(whole(jnp.asarray(leaf)), place.lengths))
    if not items:
        return [jnp.zeros(0)] * len(trees)
    names = summary.measures_of(("rms",))
    dtype = summary_dtype(*(x.dtype for x in items if jnp.issubdtype(x.dtype, jnp.inexact)))

    def measure(_, x):
        return summary.complete(summary.measure(x, names), names, len(x), dtype)

    columns, starts = in_groups(measure, items)
    measured = dict(zip(names, columns, strict=True))
    places = [start + row for start, x in zip(starts, items, strict=True) for row in range(len(x))]
    sizes = np.zeros(len(places))
    sizes[places] = [math.prod(x.shape[1:]) for x in items for _ in range(len(x))]
    norms = summary.entries(measured, sizes)["rms"] * np.sqrt(sizes).astype(dtype)
    norms = jax.lax.stop_gradient(norms)[np.array(places, int)]
    return jnp.split(norms, len(trees))


def _as_rows(leaf: Array, lengths: tuple[int, ...]) -> Array:
    """A leaf with one axis of layers in front."""
    if is_cut(leaf) and not lengths:
        return leaf[None]
    rows = math.prod(lengths)
    return uncut(leaf).reshape(rows, leaf.size // max(1, rows))
