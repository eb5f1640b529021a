"""The trace: what a probe measured, one row for each place of the network it looked at."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from vanishing import views
from vanishing.budget import Budget, budget
from vanishing.flow import Flow, Instance, unroll
from vanishing.sites import Site
from vanishing.summary import norm, wide

PyTree = Any

USED, STOPPED, UNUSED = "used", "without a gradient", "unused"


class LeafPlace(NamedTuple):
    """A parameter leaf: its path, its axes of depth, and whether the loss feels it."""

    label: str  # its path; "{0}" stands for the index along the first axis of depth
    lengths: tuple[int, ...]  # of its axes of depth
    reach: str  # USED, STOPPED or UNUSED


class ParamNorms(NamedTuple):
    """L2 norms of each parameter leaf, and of each layer of a leaf with an axis of depth."""

    weight: Float[Array, "..."]
    gradient: Float[Array, "..."]
    update: Float[Array, "..."]  # nan until `with_updates`


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the rows of a trace are: everything about them but the numbers."""

    sites: tuple[Site, ...]
    flow: Flow
    leaves: tuple[LeafPlace, ...]
    notes: tuple[str, ...]  # what could not be recorded, and why
    stops: tuple[str, ...] = ()  # "file:line" of each stop_gradient on the way to the loss

    @functools.cached_property
    def instances(self) -> tuple[Instance, ...]:
        """The rows in forward order."""
        return unroll(self.flow)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """What a person calls each row."""
        return tuple(self.sites[i.site].label.format(*i.indices) for i in self.instances)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Where each row stands when every site's array is flattened, one after another."""
        sizes = [int(np.prod(site.lengths, dtype=int)) for site in self.sites]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        return np.array(
            [
                offsets[i.site] + np.ravel_multi_index(i.indices, self.sites[i.site].lengths)
                if i.indices
                else offsets[i.site]
                for i in self.instances
            ],
            dtype=int,
        )

    @functools.cached_property
    def param_names(self) -> tuple[str, ...]:
        """What a person calls each row of the parameters."""
        return tuple(
            leaf.label.format(*index) for leaf in self.leaves for index in np.ndindex(leaf.lengths)
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["forward", "backward", "params", "value"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True)
class Trace:
    """Signal and gradient at every row of a network, from one forward and one backward pass.

    A pytree: the arrays are leaves and everything else is static, so it leaves a `jax.jit`, and is
    stacked by `jax.vmap` and `jax.lax.scan`, whose axes then stand in front of the row axis. What
    is printed of such a stack is its median.
    """

    # JAX puts anything in the place of arrays when it rebuilds a tree, hence Any.
    forward: Any  # a `Forward`, each entry with a last axis of rows, in forward order
    backward: Any  # a `Backward`, likewise
    params: Any  # a `ParamNorms`, each entry with a last axis of leaves or their layers
    value: Any  # the loss
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
            extra = tuple(range(x.ndim - axes))
            some = ~np.isnan(x).all(axis=extra, keepdims=True)  # a median of nothing would warn
            median = np.nanmedian(np.where(some, x, 0.0), axis=extra, keepdims=True)
            return np.where(some, median, np.nan).reshape(x.shape[x.ndim - axes :])

        forward, backward, params = jax.tree.map(
            lambda x: collapse(x, 1), (self.forward, self.backward, self.params)
        )
        forward, backward = (
            group._replace(non_finite=_most(all_of.non_finite))
            for group, all_of in ((forward, self.forward), (backward, self.backward))
        )
        return Trace(forward, backward, params, collapse(self.value, 0), self.layout)

    def _rms(self) -> tuple[np.ndarray, np.ndarray]:
        single = self.single()
        return np.asarray(single.forward.rms), np.asarray(single.backward.rms)

    def budget(self) -> Budget:
        """Who lost the gradient, in decades by kind of op, by parameter and by source line.

        See `vanishing.budget.Budget` for what a ratio of cotangents means.
        """
        return budget(self.layout.instances, self.layout.sites, self.names, self._rms()[1])

    def with_updates(self, updates: PyTree) -> "Trace":
        """The trace with the norms of an optimiser's updates beside those of the weights.

        Args:
          updates: what `optimizer.update` returned, a tree like the parameters.
        """
        norms = leaf_norms(updates, self.layout.leaves)
        return dataclasses.replace(self, params=self.params._replace(update=norms))

    def to_xarray(self):
        """The trace as a labelled `xarray.Dataset` with dimensions `row` and `parameter`.

        Axes that `vmap` or `scan` put in front are called `batch_0`, `batch_1`, and so on.
        """
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
        return views.annotate([site.source for site in self.sites], *self._rms())

    def plot(self):
        """Signal and gradient against row, as a matplotlib figure."""
        return views.plot(self.names, *self._rms(), self._title())

    def __str__(self) -> str:
        if isinstance(self.value, Tracer):
            return f"a trace of {len(self)} rows, without numbers inside of jit, vmap or scan"
        header, rows = self._cells()
        notes = [f"Not recorded: {note}" for note in self.notes]
        return "\n".join([self._title(), views.table(header, rows, texts=3), *notes])

    def _repr_html_(self) -> str:
        return views.html_table(*self._cells(), texts=3, caption=self._title())

    def _title(self) -> str:
        count = int(np.prod(np.shape(self.value), dtype=int))
        broken = int(np.sum(~np.isfinite(np.asarray(self.value, np.float64))))
        also = f", {broken} not finite" if broken else ""
        of = f" (median of {count}{also})" if np.ndim(self.value) else ""
        loss = views.number(float(self.single().value), 4) or "nan"
        return f"loss {loss}{of}, {len(self)} rows"

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        single = self.single()
        forward, backward = single.forward, single.backward
        columns = [
            ("row", list(self.names)),
            ("op", [site.op for site in self.sites]),
            ("at", [os.path.basename(site.source) for site in self.sites]),
            ("mean", _sizes(forward.mean, forward.non_finite)),
            ("rms", _sizes(forward.rms, forward.non_finite)),
            ("max", _sizes(forward.largest, forward.non_finite)),
            ("zeros", list(map(views.share, forward.zeros))),
            ("saturated", list(map(views.share, forward.saturated))),
            ("dead", list(map(views.share, forward.dead_units))),
            ("similar", list(map(views.number, forward.similarity))),
            ("dL/dh rms", _sizes(backward.rms, backward.non_finite)),
            ("dL/dh max", _sizes(backward.largest, backward.non_finite)),
            ("dL/dh zeros", list(map(views.share, backward.zeros))),
            ("not finite", list(map(views.number, forward.non_finite + backward.non_finite))),
        ]
        optional = ("saturated", "dead", "similar", "not finite")
        kept = [
            (name, cells)
            for name, cells in columns
            if name not in optional or any(cell not in ("", "0") for cell in cells)
        ]
        return tuple(name for name, _ in kept), list(
            zip(*(cells for _, cells in kept), strict=True)
        )


def _most(counts) -> np.ndarray:
    """The largest of the counts of each row, over all axes in front; nan where there is none."""
    counts = np.asarray(counts, np.float64)
    largest = np.where(np.isnan(counts), -1, counts).max(axis=tuple(range(counts.ndim - 1)))
    return np.where(largest < 0, np.nan, largest)


def _sizes(values, non_finite) -> list[str]:
    """Numbers as text: nan where a signal held it, nothing where there was no signal."""
    pairs = zip(values, non_finite, strict=True)
    return [views.number(value) or "nan" * bool(count > 0) for value, count in pairs]


def leaf_norms(tree: PyTree, leaves: tuple[LeafPlace, ...]) -> Float[Array, "parameter"]:
    """The norm of every leaf, and of every layer of a leaf with axes of depth."""
    norms = [
        jnp.ravel(norm(leaf, tuple(range(len(place.lengths), jnp.ndim(leaf)))))
        for leaf, place in zip(map(jnp.asarray, jax.tree.leaves(tree)), leaves, strict=True)
    ]
    return jnp.concatenate(norms) if norms else wide(jnp.zeros(0))
