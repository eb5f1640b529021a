"""Traces a loss and selects what to record, ready for replay."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from vanishing import _arguments
from vanishing.probing import (
    arguments,
    dependence,
    hidden,
    jaxpr,
    leaf_names,
    sites,
    stops,
    suspects,
)
from vanishing.probing.arguments import Arguments, LossError, Returned
from vanishing.probing.dependence import Dependence, Dependences, Kind
from vanishing.probing.jaxpr import Program, ValueId
from vanishing.probing.layout import STOPPED, UNUSED, USED, Layout, LeafPlace
from vanishing.probing.leaf_names import Leaf, LeafId
from vanishing.probing.lineage import SiteId, flow_of
from vanishing.probing.replay import Callbacks, Tap, replay
from vanishing.probing.sites import Selected, Site


class Plan(NamedTuple):
    """A traced loss, ready to be replayed."""

    flat_loss: Callable[[list[Any], list[Any]], list[Any]]  # of leaves: params, others of the loss
    program: Program
    selected: list[Selected]
    layout: Layout
    arguments: Arguments
    static: frozenset[int]  # numbers of the arguments' other leaves that are not traced
    returned: Returned
    params: list[Any]  # leaves
    others: list[Any]  # the program's other inputs: those of the loss, then what it closes over
    dtype: Any  # of the summaries


def make_plan(
    loss: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    *,
    argnums: SupportsIndex | Sequence[SupportsIndex] = 0,
    has_aux: bool = False,
    level: str = "layer",
    where: Callable[[Site], bool] | str = lambda site: True,
) -> Plan:
    """The plan of a loss, read from what it does with these arguments; see `vanishing.probe`."""
    given = arguments.read(loss, argnums, args, kwargs)
    traced = _trace(loss, given, has_aux)
    program, closed_over = jaxpr.lift_constants(traced.program)
    params = [leaf.value for leaf in given.params]
    others = given.traced(traced.static)
    dependences = _dependences(program, len(params), closed_over)
    leaves = [
        Leaf(path=n.name, module=leaf_names.parent(n.path, n.name), shape=np.shape(n.value))
        for n in given.params
    ]
    chosen = sites.choose(program, dependences, leaves, level)
    selected = sites.select(chosen, where)
    return Plan(
        flat_loss=traced.flat_loss,
        program=program,
        selected=selected,
        layout=_layout(program, dependences, leaves, chosen, selected, level),
        arguments=given,
        static=traced.static,
        returned=traced.returned,
        params=params,
        others=[*others, *closed_over],
        dtype=_dtype(selected),
    )


def tapped(plan: Plan, tap: Tap, absent: float = math.nan) -> Callable:
    """The loss of a plan as a function of its parameters and of the slots of its taps.

    Args:
      plan: of the loss.
      tap: what to do at each of its selected values; see `replay.Callbacks`.
      absent: what stands for the numbers of a branch that is not taken.

    Returns:
      A function of the parameters' leaves, the slots by number of the value, and the program's
      other inputs. It returns the loss and a pair: its aux outputs, and what the taps measured.
    """
    local = {s.value: s.local for s in plan.selected if s.local}
    callbacks = Callbacks(tap=tap, locals=local, absent=absent)

    def run(params, slots, others):
        outputs, measured = replay(plan.program.frame, [*params, *others], callbacks, slots)
        return outputs[0], (outputs[1:], measured)

    return run


def _dependences(program: Program, params: int, closed_over: Sequence[Any]) -> Dependences:
    """The dependences of a program: its first inputs are parameters, its last ones constants."""
    param = [
        Dependence(kind=Kind.PARAM, sensitive=True, leaves=frozenset({LeafId(i)}))
        for i in range(params)
    ]
    data = [Dependence(kind=Kind.DATA)] * (len(program.frame.inputs) - params)
    constants = dict(zip(reversed(program.frame.inputs), reversed(closed_over), strict=False))
    return dependence.gather(program, [*param, *data], program.frame.outputs[:1], constants)


def _layout(
    program: Program,
    dependences: Dependences,
    leaves: Sequence[Leaf],
    chosen: Sequence[Selected],
    selected: Sequence[Selected],
    level: str,
) -> Layout:
    absent = () if selected else (hidden.why_no_rows(program, dependences, len(leaves), chosen),)
    site_ids = {s.value: SiteId(i) for i, s in enumerate(selected)}
    return Layout(
        sites=tuple(s.site for s in selected),
        flow=flow_of(program.frame, site_ids, dependences),
        leaves=_leaf_places(program, dependences, leaves),
        notes=(*absent, *hidden.notes(program, dependences)),
        stops=stops.cutting(program, dependences, len(leaves)),
        steps=stops.steps(program, dependences, len(leaves)),
        kernels=tuple(s.kernel for s in selected),
        level=level,
        suspects=suspects.between_rows(program, [s.value for s in selected]),
    )


class _Traced(NamedTuple):
    """A loss, read."""

    flat_loss: Callable[[list[Any], list[Any]], list[Any]]
    program: Program
    static: frozenset[int]
    returned: Returned


def _trace(loss: Callable, given: Arguments, has_aux: bool) -> _Traced:
    """A loss as a program of leaves, of which no more are static than have to be."""
    static = given.never_traced()
    params = [leaf.value for leaf in given.params]
    while True:
        flat_loss, returned = _flatten(loss, given, static, has_aux)
        try:
            program, _ = jaxpr.read(flat_loss, params, given.traced(static))
        except LossError as error:
            raise TypeError(*error.args) from None
        except Exception as error:
            if not (more := given.needed(error, static)):
                _advise(error)
                raise
            static |= more
        else:
            return _Traced(flat_loss, program, static, returned[-1])


def _flatten(loss: Callable, given: Arguments, static: frozenset[int], has_aux: bool):
    """The loss as a function of two lists of arrays that returns a list of arrays.

    Also the list to which it adds, each time it is called, what else the loss returned.
    """
    rest = []

    def flat_loss(probed_params, probed_others):  # as `Arguments.needed` looks for in errors
        others = given.completed(static, probed_others)
        output = given.structure.call(loss, probed_params, others)
        outputs, returned = arguments.take_apart(output, has_aux, others)
        rest.append(returned)
        return outputs

    return flat_loss, rest


def _advise(error: Exception) -> None:
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
        error.add_note(
            "vanishing.probe traces the loss once, as jax.jit does: use jnp in place of np, and "
            "jax.lax.cond or jnp.where in place of `if`, on values that depend on the parameters "
            "or that jnp computes."
        )


def _leaf_places(
    program: Program, dependences: Dependences, leaves: Sequence[Leaf]
) -> tuple[LeafPlace, ...]:
    levels = [0] * len(leaves)
    slices = (value for _, node in jaxpr.walk(program.frame) for value in node.slices)
    for weight in filter(dependences.is_weight, slices):
        for origin in dependences.origins.of(weight):
            if origin.levels:
                levels[origin.leaf] = max(levels[origin.leaf], len(origin.indices))
    return tuple(
        LeafPlace(
            label=leaf_names.indexed(leaf.path, map("{{{}}}".format, range(depth))),
            lengths=leaf.shape[:depth],
            reach=_reach(value, dependences),
            dtype=str(program.specs[value].dtype),
            shape=tuple(leaf.shape),
        )
        for leaf, depth, value in zip(leaves, levels, program.frame.inputs, strict=False)
    )


def _reach(value: ValueId, dependences: Dependences) -> str:
    if value in dependences.reaches_loss:
        return USED
    return STOPPED if value in dependences.used else UNUSED


def _dtype(selected: Sequence[Selected]) -> Any:
    """The widest of the dtypes of all rows; of complex ones that of their parts."""
    parts = (jnp.finfo(s.site.dtype).dtype for s in selected)
    return jax.dtypes.canonicalize_dtype(functools.reduce(np.promote_types, parts, np.float32))


def word_of(function: Callable) -> str:
    """The operation that rows of an elementwise function have.

    >>> word_of(jax.nn.gelu)
    'gelu'
    """
    _arguments.function("function", function, "an elementwise function, as jnp.tanh is one")
    w = np.ones((2, 2), np.float32)
    plan = make_plan(lambda w, x: jnp.mean(function(x @ w) @ w), (w, w), {})
    _, *between, _ = (s.site.op for s in plan.selected)
    return between[-1] if between else getattr(function, "__name__", "function").strip("<>")
