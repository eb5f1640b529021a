"""Measures a planned loss: replays it with taps and summarises what they let out.

Rows of the outermost frame are let out whole, signal and cotangent, and summarised in groups of one
shape; rows inside of loops, branches and checkpoints are summarised in place.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing._numerics import whole
from vanishing._types import PyTree
from vanishing.probing import equations, jaxpr, slopes, summary, tap
from vanishing.probing.groups import LIMIT, in_groups
from vanishing.probing.jaxpr import ValueId
from vanishing.probing.patterns import SiteKind
from vanishing.probing.plan import Plan, tapped
from vanishing.probing.replay import Tap
from vanishing.probing.sites import Selected
from vanishing.probing.summary import BackwardSummary, ForwardSummary
from vanishing.probing.trace import ParamNorms, Trace, leaf_norms

EXTRA_MEMORY = 0.15  # of what the signals of all rows take, for stacks of rows


class Probed(NamedTuple):
    """What a probed loss returns."""

    value: Float[Array, ""]
    grads: PyTree  # as `jax.grad` returns them
    aux: Any  # what the loss returned beside its value; None without `has_aux`
    trace: Trace


def measuring(plan: Plan, wanted: tuple[str, ...], with_params: bool) -> Callable:
    """A compiled function that measures a planned loss in one forward and one backward pass.

    Args:
      plan: of the loss; what it says of this call's arguments is not used.
      wanted: names of the summaries' entries to compute.
      with_params: are the norms of parameters and gradients wanted?

    Returns:
      A function of the leaves of the parameters and of the program's other inputs, that returns the
      program's outputs, the gradients of the leaves, and the trace.
    """

    # The compiled program may be kept for long: it holds on to no loss and to no argument.
    measured = (*wanted, "params") if with_params else wanted
    plan = plan._replace(
        flat_loss=None,
        arguments=None,
        params=None,
        others=None,
        layout=dataclasses.replace(plan.layout, measured=measured),
    )

    @jax.jit
    def run(params, others):
        rows = _Measuring(plan, wanted)
        loss = jax.value_and_grad(tapped(plan, rows.tap(), absent=0.0), (0, 1), has_aux=True)
        (value, (aux, measured)), (grads, cotangents) = loss(params, rows.slots(), others)
        forward, backward = rows.summaries(measured, cotangents)
        trace = Trace(
            forward=forward,
            backward=backward,
            params=_norms(plan, params, grads, with_params),
            value=whole(jnp.asarray(value)),
            layout=plan.layout,
        )
        return [value, *aux], grads, trace

    return run


def _norms(plan: Plan, params: list[Any], grads: list[Any], wanted: bool) -> ParamNorms:
    leaves = plan.layout.leaves
    absent = jnp.full((len(plan.layout.param_names),), summary.unmeasured(), plan.dtype)
    if not wanted:
        return ParamNorms(weight=absent, gradient=absent, update=absent)
    weight, gradient = leaf_norms([params, grads], leaves)
    return ParamNorms(weight=weight, gradient=gradient, update=absent)


class _Kind(NamedTuple):
    """What rows that are summarised together have in common."""

    site: SiteKind
    slope: Hashable = None  # the signature of the function whose slope is wanted


class _Measuring:
    """The taps and summaries of one replay of a plan."""

    def __init__(self, plan: Plan, wanted: tuple[str, ...]):
        self.plan = plan
        self.wanted = wanted
        self.ways = {  # the measures of both passes
            kind: summary.measures_of([name for name in kind._fields if name in wanted])
            for kind in (ForwardSummary, BackwardSummary)
        }
        inside = frozenset().union(*(node.inside for node in plan.program.frame.nodes))
        self.outside = [s for s in plan.selected if s.value not in inside]
        self.inside = [s for s in plan.selected if s.value in inside]
        self.selected = {s.value: s for s in plan.selected}
        nodes = [node for _, node in jaxpr.walk(plan.program.frame)]
        self.makers = {value: node for node in nodes for value in node.outputs}
        self.kinds: dict[ValueId, _Kind] = {}
        self.functions: dict[Any, Callable | None] = {}  # of outermost rows, by kind and shape
        self.largest: dict[Hashable, float] = {}  # slope, by signature

    def slots(self) -> dict[ValueId, Array]:
        """The slots of all taps, zeros."""
        specs = self.plan.program.specs
        zeros_by_spec: dict[Any, Array] = {}  # one for all signals of a kind
        for s in self.outside:
            if (spec := specs[s.value]) not in zeros_by_spec:
                zeros_by_spec[spec] = equations.zeros_of(spec)
        slots = {s.value: zeros_by_spec[specs[s.value]] for s in self.outside}
        size = len(self.ways[BackwardSummary])
        for s in self.inside:
            zeros = jnp.zeros((*s.site.lengths, size), self.plan.dtype)
            slots[s.value] = equations.varying_as(zeros, specs[s.value])
        return slots

    def tap(self) -> Tap:
        """What to do at each value; see `replay.Callbacks`."""
        outside = {s.value for s in self.outside}

        def tapped(number, x, slot, local):
            kind = self.kinds[number] = self.kind_of(number, local)
            function, root = local if kind.slope else (None, None)
            if number in outside:
                self.functions.setdefault((kind, x.shape), function)
                return tap.let_out(x.dtype)(x, slot), (x, root)
            signals = jax.lax.stop_gradient(jax.tree.map(lambda y: whole(y)[None], (x, root)))
            ran = jnp.ones(1, slot.dtype)
            measured = jnp.concatenate([*self.measure(kind, signals, function), ran])
            return self.watch(kind)(x, slot), measured

        return tapped

    def watch(self, kind: _Kind) -> Callable:
        """The tap of a row in place."""
        measures = self.ways[BackwardSummary]
        measured = tuple(m for m in measures if summary.is_measured(m, kind.site))
        return tap.watch(measures, measured)

    def kind_of(self, number: ValueId, local) -> _Kind:
        """The kind of a row, with a signature where the slope of its function is wanted."""
        selected = self.selected[number]
        kind = _Kind(selected.site.kind)
        if (
            local is None
            or selected.local is None
            or "saturated" not in self.wanted
            or not summary.is_measured("saturated", kind.site)
        ):
            return kind
        function, root = local
        signature = slopes.signature(selected.local, self.makers)
        if signature not in self.largest:
            self.largest[signature] = slopes.largest_slope(function, root.shape, root.dtype)
        return kind._replace(slope=signature) if np.isfinite(self.largest[signature]) else kind

    def measure(self, kind: _Kind, signals: tuple, function: Callable | None) -> list[Array]:
        """The measures of a stack of signals, and of the roots that they are a function of."""
        x, roots = signals
        saturated = None
        if function is not None:
            slope = slopes.slope(jax.vmap(function), roots)
            saturated = jnp.abs(slope) < summary.SATURATED * self.largest[kind.slope]
        return self.complete(kind, x, ForwardSummary, saturated)

    def complete(self, kind: _Kind, x: Array, way: type, saturated=None) -> list[Array]:
        """The measures of a stack for one pass."""
        measured = [m for m in self.ways[way] if summary.is_measured(m, kind.site)]
        values = summary.measure(x, measured, saturated)
        return summary.complete(values, self.ways[way], x.shape[0], self.plan.dtype)

    def summaries(self, measured, cotangents) -> tuple[ForwardSummary, BackwardSummary]:
        """The summaries of all rows, in forward order, from what the taps let out."""

        def forward(kind, signals):
            function = self.functions[kind, signals[0].shape[1:]] if kind.slope else None
            return self.measure(kind, signals, function)

        def backward(kind, cotangents):
            return self.complete(kind, cotangents, BackwardSummary)

        def stacks(tree):
            rows = [(self.as_row(s), tree[s.value]) for s in self.outside]
            return [jax.tree.map(lambda x, f=as_row: f(whole(x)), x) for as_row, x in rows]

        rows = [measured[s.value].reshape(math.prod(s.site.lengths), -1) for s in self.inside]
        back = [
            cotangents[s.value].reshape(len(m), -1) for s, m in zip(self.inside, rows, strict=True)
        ]
        ran = [m[:, -1] > 0 for m in rows]
        return (
            self.in_order(ForwardSummary, forward, stacks(measured), rows, ran),
            self.in_order(BackwardSummary, backward, stacks(cotangents), back, ran),
        )

    def as_row(self, selected: Selected) -> Callable[[Array], Array]:
        """A function that gives a signal its axis of rows.

        It becomes a vector too, so that more signals are alike, but where its shape matters, or
        where it is large and may have a layout in memory that is not worth a copy.
        """
        size = math.prod(selected.site.shape) * jnp.dtype(selected.site.dtype).itemsize
        shaped = self.kinds[selected.value].slope or {"dead_units", "similarity"} & set(self.wanted)
        if shaped or 2 * size > self.limit:
            return lambda x: x[None]
        return lambda x: x.reshape(1, x.size)

    def in_order(self, way: type, function: Callable, items, tables, ran) -> Any:
        """The summaries of one pass of all rows, in forward order.

        Args:
          way: `ForwardSummary` or `BackwardSummary`.
          function: of a kind and of a stack of rows, that returns their measures.
          items: the rows of the outermost frame.
          tables: the measures of the other sites, with an axis of rows and one of measures.
          ran: whether each of their rows ran.
        """
        names, dtype = self.ways[way], self.plan.dtype
        if not self.plan.selected:
            return way(*[jnp.zeros(0, dtype)] * len(way._fields))
        starts: dict[ValueId, int] = {}
        parts = []
        if items:
            keys = [self.kinds[s.value] for s in self.outside]
            part, places = in_groups(function, items, keys, self.limit)
            parts.append(part)
            starts |= {s.value: int(i) for s, i in zip(self.outside, places, strict=True)}
        total = len(items)
        for s, table in zip(self.inside, tables, strict=True):
            parts.append(list(table.T[: len(names)]))
            starts[s.value], total = total, total + len(table)
        sizes = np.zeros(total)
        for s in self.plan.selected:
            start = starts[s.value]
            sizes[start : start + math.prod(s.site.lengths)] = math.prod(s.site.shape)
        columns = [jnp.concatenate(column) for column in zip(*parts, strict=True)]
        entries = summary.entries(dict(zip(names, columns, strict=True)), sizes)
        wanted = {name: value for name, value in entries.items() if name in self.wanted}
        table = jnp.stack(summary.complete(wanted, way._fields, total, dtype))
        if ran:
            present = jnp.concatenate([jnp.ones(len(items), bool), *ran])
            table = jnp.where(present, table, summary.unmeasured())
        order = self.plan.layout.order([starts[s.value] for s in self.plan.selected])
        if not np.array_equal(order, np.arange(total)):
            table = table[:, order]
        return way(*jnp.unstack(jax.lax.stop_gradient(table)))

    @functools.cached_property
    def limit(self) -> int:
        """The bytes that a stack of rows may take: a share of what the rows' signals take."""
        signals = sum(
            math.prod((*s.site.lengths, *s.site.shape)) * jnp.dtype(s.site.dtype).itemsize
            for s in self.plan.selected
        )
        return max(LIMIT, int(EXTRA_MEMORY * signals) // 8)
