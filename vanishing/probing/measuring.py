"""Measures a planned loss: replays it with taps and summarises what they let out.

Rows of the outermost frame are let out whole, signal and cotangent, and summarised in groups of one
shape; rows inside of loops, branches and checkpoints are summarised in place.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing._types import PyTree
from vanishing.probing import jaxpr, slopes, summary, tap
from vanishing.probing.groups import LIMIT, in_groups
from vanishing.probing.jaxpr import ValueId
from vanishing.probing.patterns import SiteKind
from vanishing.probing.plan import Plan, tapped
from vanishing.probing.replay import Tap
from vanishing.probing.summary import BackwardSummary, ForwardSummary
from vanishing.probing.trace import ParamNorms, Trace, leaf_norms

EXTRA_MEMORY = 0.15  # of what the signals of all rows take, for stacks of rows


class Probed(NamedTuple):
    """What a probed loss returns."""

    value: Float[Array, ""]
    grads: PyTree  # as `jax.grad` returns them
    aux: Any  # what the loss returned beside its value; None without `has_aux`
    trace: Trace


def measure(plan: Plan, wanted: tuple[str, ...], with_params: bool) -> Probed:
    """Value, gradients, aux and trace of a planned loss, from one forward and one backward pass.

    Args:
      plan: of the loss.
      wanted: names of the summaries' entries to compute.
      with_params: are the norms of parameters and gradients wanted?
    """

    @jax.jit
    def run(params, others):
        measuring = _Measuring(plan, wanted)
        loss = jax.value_and_grad(tapped(plan, measuring.tap(), absent=0.0), (0, 1), has_aux=True)
        (value, (aux, measured)), (grads, cotangents) = loss(params, measuring.slots(), others)
        forward, backward = jax.lax.stop_gradient(measuring.rows(measured, cotangents))
        trace = Trace(
            forward=forward,
            backward=backward,
            params=_norms(plan, params, grads, with_params),
            value=value,
            layout=plan.layout,
        )
        return Probed(
            value=value, grads=plan.grads_like(grads), aux=plan.aux_like(aux), trace=trace
        )

    return run(plan.params, plan.others)


def _norms(plan: Plan, params: list[Any], grads: list[Any], wanted: bool) -> ParamNorms:
    leaves = plan.layout.leaves
    absent = jnp.full((len(plan.layout.param_names),), summary.unmeasured(), plan.dtype)
    if not wanted:
        return ParamNorms(weight=absent, gradient=absent, update=absent)
    params, grads = jax.lax.stop_gradient((params, grads))
    return ParamNorms(
        weight=leaf_norms(params, leaves), gradient=leaf_norms(grads, leaves), update=absent
    )


class _Kind(NamedTuple):
    """What rows that are summarised together have in common."""

    site: SiteKind
    slope: Hashable = None  # the signature of the function whose slope is wanted


class _Measuring:
    """The taps and summaries of one replay of a plan."""

    def __init__(self, plan: Plan, wanted: tuple[str, ...]):
        self.plan = plan
        self.wanted = wanted
        inside = frozenset().union(*(node.inside for node in plan.program.frame.nodes))
        self.outside = [s for s in plan.selected if s.value not in inside]
        self.inside = [s for s in plan.selected if s.value in inside]
        self.selected = {s.value: s for s in plan.selected}
        nodes = [node for _, node in jaxpr.walk(plan.program.frame)]
        self.makers = {value: node for node in nodes for value in node.outputs}
        self.kinds: dict[ValueId, _Kind] = {}
        self.functions: dict[_Kind, Callable] = {}  # of rows in the outermost frame
        self.largest: dict[Hashable, float] = {}  # slope, by signature

    def slots(self) -> dict[ValueId, Array]:
        """The slots of all taps, zeros."""
        whole: dict[Any, Array] = {}  # one for all signals of a shape
        for s in self.outside:
            whole.setdefault((s.site.shape, s.site.dtype), jnp.zeros(s.site.shape, s.site.dtype))
        slots = {s.value: whole[s.site.shape, s.site.dtype] for s in self.outside}
        for s in self.inside:
            slots[s.value] = jnp.zeros((*s.site.lengths, tap.SLOT_SIZE), self.plan.dtype)
        return slots

    def tap(self) -> Tap:
        """What to do at each value; see `replay.Callbacks`."""
        outside = {s.value for s in self.outside}

        def measure(number, x, slot, local):
            kind = self.kinds[number] = self.kind_of(number, local)
            function, root = local if kind.slope else (None, None)
            signals = [jax.lax.stop_gradient(y)[None] for y in (x, root) if y is not None]
            if number in outside:
                self.functions.setdefault(kind, function)
                return tap.let_out(x.dtype)(x, slot), signals
            entries = self.summarize(kind, signals, function)
            ran = jnp.ones((1, 1), entries.dtype)
            return tap.watch(self.names(kind))(x, slot), jnp.concatenate([entries, ran])[:, 0]

        return measure

    def kind_of(self, number: ValueId, local) -> _Kind:
        """The kind of a row, with a signature where the slope of its function is wanted."""
        selected = self.selected[number]
        plain = _Kind(selected.site.kind)
        if local is None or "saturated" not in self.names(plain):
            return plain
        function, root = local
        signature = slopes.signature(selected.local, self.makers)
        if signature not in self.largest:
            self.largest[signature] = slopes.largest_slope(function, root.shape, root.dtype)
        bounded = np.isfinite(self.largest[signature])
        return plain._replace(slope=signature) if bounded else plain

    def names(self, kind: _Kind) -> tuple[str, ...]:
        """The names of the wanted entries that a row of a kind has."""
        return tuple(name for name in self.wanted if summary.is_measured(name, kind.site))

    def summarize(
        self, kind: _Kind, signals: Sequence[Array], function: Callable | None
    ) -> Float[Array, "names rows"]:
        """The table of a stack of signals; of a function of roots where its slope is wanted."""
        saturated = None
        if function is not None:
            signals, roots = signals[:1], signals[1]
            slope = slopes.slope(jax.vmap(function), roots)
            saturated = jnp.abs(slope) < summary.SATURATED * self.largest[kind.slope]
        entries = summary.forward(signals[0], self.names(kind), saturated)
        return summary.table(entries, ForwardSummary._fields, signals[0].shape[0], self.plan.dtype)

    def rows(self, measured, cotangents) -> tuple[ForwardSummary, BackwardSummary]:
        """The summaries of all rows, in forward order, from what the taps let out."""

        def forward(kind, signals):
            return self.summarize(kind, signals, self.functions[kind])

        def backward(kind, cotangents):
            entries = summary.backward(cotangents, self.names(kind))
            names, rows = BackwardSummary._fields, cotangents.shape[0]
            return summary.table(entries, names, rows, self.plan.dtype)

        signals = [measured[s.value] for s in self.outside]
        whole = [cotangents[s.value][None] for s in self.outside]
        tables, tables_back = [], []
        for s in self.inside:
            *entries, ran = measured[s.value].reshape(-1, len(ForwardSummary._fields) + 1).T
            back = cotangents[s.value].reshape(-1, tap.SLOT_SIZE).T
            for table, kept in ((jnp.stack(entries), tables), (back, tables_back)):
                kept.append(jnp.where(ran > 0, table, summary.unmeasured()))
        return (
            ForwardSummary(*self.in_order(forward, signals, tables, len(ForwardSummary._fields))),
            BackwardSummary(*self.in_order(backward, whole, tables_back, tap.SLOT_SIZE)),
        )

    def in_order(
        self, function: Callable, items: Sequence[PyTree], tables: Sequence[Array], names: int
    ) -> list[Float[Array, "rows"]]:
        """The entries of all rows, in forward order.

        Args:
          function: of a kind and of a stack of rows, that makes a table.
          items: the rows of the outermost frame.
          tables: those of the other sites.
          names: how many entries a table has.
        """
        starts: dict[ValueId, int] = {}
        total = 0
        columns = []
        if items:
            keys = [self.kinds[s.value] for s in self.outside]
            table, places = in_groups(function, items, keys, self.limit())
            columns.append(table)
            starts |= {s.value: int(i) for s, i in zip(self.outside, places, strict=True)}
            total = len(items)
        for s, table in zip(self.inside, tables, strict=True):
            columns.append(table)
            starts[s.value] = total
            total += table.shape[1]
        if not columns:
            return [jnp.zeros(0, self.plan.dtype)] * names
        order = self.plan.layout.order([starts[s.value] for s in self.plan.selected])
        return list(jnp.concatenate(columns, axis=1)[:, order])

    def limit(self) -> int:
        """The bytes that a stack of rows may take: a share of what the rows' signals take."""
        signals = sum(
            math.prod((*s.site.lengths, *s.site.shape)) * np.dtype(s.site.dtype).itemsize
            for s in self.plan.selected
        )
        return max(LIMIT, int(EXTRA_MEMORY * signals) // 8)
