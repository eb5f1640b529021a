"""Measures a planned loss: replays it with taps and summarises what they let out.

Rows of the outermost frame are let out whole, signal and cotangent, and summarised in groups of one
shape; rows inside of loops, branches and checkpoints are summarised in place.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing import _text
from vanishing._numerics import whole
from vanishing._types import PyTree
from vanishing.probing import equations, jaxpr, slopes, summary, tap
from vanishing.probing.jaxpr import ValueId
from vanishing.probing.plan import Plan, tapped
from vanishing.probing.replay import Tap, evaluate
from vanishing.probing.rows import LetOut, Rows, Slope, summaries
from vanishing.probing.summary import BackwardSummary, ForwardSummary
from vanishing.probing.trace import ParamNorms, Trace, leaf_norms


class Probed(NamedTuple):
    """What a probed loss returns."""

    value: Float[Array, ""]
    grads: PyTree  # as `jax.grad` returns them
    aux: Any  # what the loss returned beside its value; None without `has_aux`
    trace: Trace

    def __repr__(self) -> str:
        grads = f"gradients of {_text.count(len(jax.tree.leaves(self.grads)), 'array')}"
        return f"Probed({grads}, {'' if self.aux is None else 'aux, '}{self.trace!r})"


def measuring(plan: Plan, wanted: tuple[str, ...], with_params: bool) -> Callable:
    """A compiled function that measures a planned loss in one forward and one backward pass.

    Args:
      plan: of the loss; what it says of this call's arguments is not used.
      wanted: names of the summaries' entries to compute.
      with_params: are the norms of parameters and gradients wanted? With `FINITE` alone they are
        left out.

    Returns:
      A function of the leaves of the parameters and of the program's other inputs, that returns the
      program's outputs, the gradients of the leaves, and the trace.
    """

    # The compiled program may be kept for long: it holds on to no loss and to no argument.
    with_params = with_params and wanted != FINITE
    measured = (*wanted, "params") if with_params else wanted
    plan = plan._replace(
        flat_loss=None,
        arguments=None,
        params=None,
        others=None,
        layout=dataclasses.replace(plan.layout, measured=measured),
    )

    def whole_trace(params, others):
        rows = _Measuring(plan, wanted)
        loss = jax.value_and_grad(tapped(plan, rows.tap(), absent=0.0), (0, 1), has_aux=True)
        (value, (aux, measured)), (grads, cotangents) = loss(params, rows.slots(), others)
        forward, backward = rows.summaries(measured, cotangents)
        trace = Trace(
            forward=forward,
            backward=backward,
            params=_norms(plan, params, grads, with_params),
            value=whole(jnp.asarray(value)),
            layout=dataclasses.replace(plan.layout, marked=not np.isnan(summary.unmeasured())),
        )
        return [value, *aux], grads, trace

    def trace_if_broken(params, others):
        """Counts what is not finite in a second pass, where the loss or a gradient is not."""

        def loss(params):
            value, *aux = evaluate(plan.program.frame, [*params, *others])
            return value, aux

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        # XLA for CPUs sums by the first axis with vector instructions.
        leaving = sum(jnp.sum(jnp.sum(jnp.atleast_1d(abs(x)) * 0, 0)) for x in (value, *grads))
        again = lambda *args: whole_trace(*args)[2]  # noqa: E731
        nothing = _nothing(jax.eval_shape(again, params, others))
        trace = jax.lax.cond(leaving == 0, lambda *_: nothing, again, params, others)
        return [value, *aux], grads, dataclasses.replace(trace, value=whole(jnp.asarray(value)))

    return jax.jit(trace_if_broken if wanted == FINITE else whole_trace)


FINITE = ("non_finite",)


def _nothing(trace: Trace) -> Trace:
    """A trace of this form that counts nothing that is not finite."""
    zeros = jax.tree.map(equations.zeros_of, trace)
    unmeasured = jax.tree.map(lambda x: x + summary.unmeasured(), zeros)
    ways = {name: getattr(unmeasured, name)._replace(non_finite=getattr(zeros, name).non_finite)
            for name in ("forward", "backward")}  # fmt: skip
    return dataclasses.replace(unmeasured, **ways)


def _norms(plan: Plan, params: list[Any], grads: list[Any], wanted: bool) -> ParamNorms:
    leaves = plan.layout.leaves
    absent = jnp.full((len(plan.layout.param_names),), summary.unmeasured(), plan.dtype)
    if not wanted:
        return ParamNorms(weight=absent, gradient=absent, update=absent)
    weight, gradient = leaf_norms([params, grads], leaves)
    return ParamNorms(weight=weight, gradient=gradient, update=absent)


class _Measuring:
    """The taps of one replay of a plan, and what they let out."""

    def __init__(self, plan: Plan, wanted: tuple[str, ...]):
        self.plan = plan
        self.rows = Rows(plan.selected, plan.layout, plan.dtype, wanted)
        inside = frozenset().union(*(node.inside for node in plan.program.frame.nodes))
        self.outside = [s for s in plan.selected if s.value not in inside]
        self.inside = [s for s in plan.selected if s.value in inside]
        self.selected = {s.value: s for s in plan.selected}
        nodes = [node for _, node in jaxpr.walk(plan.program.frame)]
        self.makers = {value: node for node in nodes for value in node.outputs}
        self.slopes: dict[ValueId, Slope | None] = {}
        self.largest: dict[Hashable, float] = {}  # slope, by signature

    def slots(self) -> dict[ValueId, Array]:
        """The slots of all taps, zeros."""
        specs = self.plan.program.specs
        zeros_by_spec: dict[Any, Array] = {}  # one for all signals of a kind
        for s in self.outside:
            if (spec := specs[s.value]) not in zeros_by_spec:
                zeros_by_spec[spec] = equations.zeros_of(spec)
        slots = {s.value: zeros_by_spec[specs[s.value]] for s in self.outside}
        size = len(self.rows.measures(BackwardSummary))
        for s in self.inside:
            zeros = jnp.zeros((*s.site.lengths, size), self.plan.dtype)
            slots[s.value] = equations.varying_as(zeros, specs[s.value])
        return slots

    def tap(self) -> Tap:
        """What to do at each value; see `replay.Callbacks`."""
        outside = {s.value for s in self.outside}

        def tapped(number, x, slot, local):
            slope = self.slopes[number] = self.slope(number, local)
            root = local[1] if slope else None
            if number in outside:
                return tap.let_out(x.dtype)(x, slot), (x, root)
            return self.in_place(number, x, slot, slope, root)

        return tapped

    def in_place(self, number: ValueId, x: Array, slot: Array, slope: Slope | None, root):
        """A tap that measures a signal, and its cotangent, where they are."""
        kind = self.selected[number].site.kind
        measures, measured = (
            [which(way) for way in (ForwardSummary, BackwardSummary)]
            for which in (self.rows.measures, lambda way: self.rows.measured(way, kind))
        )
        x_row, root_row = jax.lax.stop_gradient(jax.tree.map(lambda y: whole(y)[None], (x, root)))
        saturated = slope.saturated(root_row) if slope else None
        values = summary.measure(x_row, measured[0], saturated)
        values = summary.complete(values, measures[0], 1, slot.dtype)
        watched = tap.watch(measures[1], measured[1])(x, slot)
        return watched, jnp.concatenate([*values, jnp.ones(1, slot.dtype)])

    def slope(self, number: ValueId, local) -> Slope | None:
        """The slope of the function that a row is of its root, where that is wanted."""
        selected = self.selected[number]
        if (
            local is None
            or selected.local is None
            or "saturated" not in self.rows.measured(ForwardSummary, selected.site.kind)
        ):
            return None
        function, root = local
        signature = slopes.signature(selected.local, self.makers)
        if signature not in self.largest:
            self.largest[signature] = slopes.largest_slope(function, root.shape, root.dtype)
        largest = self.largest[signature]
        return Slope(function, largest, signature) if np.isfinite(largest) else None

    def summaries(self, measured, cotangents) -> list[Any]:
        """The summaries of all rows, in forward order, from what the taps let out."""

        def let_out(value: ValueId) -> LetOut:
            signal, root = jax.tree.map(whole, measured[value])
            cotangent = whole(cotangents[value])
            return LetOut(signal, root, cotangent, self.slopes[value])

        return summaries(
            self.rows,
            {s.value: let_out(s.value) for s in self.outside},
            {s.value: (measured[s.value], cotangents[s.value]) for s in self.inside},
        )
