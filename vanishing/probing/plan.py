"""Traces a loss and selects what to record, ready for replay."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import PyTree
from vanishing.probing import dependence, jaxpr, leaf_names, sites
from vanishing.probing.dependence import Dependence, Dependences, Kind, Use
from vanishing.probing.jaxpr import Program, ValueId
from vanishing.probing.layout import STOPPED, UNUSED, USED, Layout, LeafPlace
from vanishing.probing.leaf_names import Leaf, LeafId
from vanishing.probing.lineage import SiteId, flow_of
from vanishing.probing.replay import Callbacks, Tap, replay
from vanishing.probing.sites import Selected, Site

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


class Plan(NamedTuple):
    """A traced loss, ready to be replayed."""

    flat_loss: Callable[[list[Any], list[Any]], Any]  # of the leaves: params, others
    program: Program
    selected: list[Selected]
    layout: Layout
    params: list[Any]  # leaves
    others: list[Any]  # the program's other inputs: those of the loss, then what it closes over
    arguments: int  # how many of the others are the loss's
    has_aux: bool
    grads_like: Callable[[list[Any]], PyTree]
    aux_like: Callable[[list[Any]], Any]
    dtype: Any  # of the summaries


def make_plan(
    loss: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    level: str = "layer",
    where: Callable[[Site], bool] = lambda site: True,
) -> Plan:
    """The plan of a loss, read from what it does with these arguments; see `vanishing.probe`."""
    numbers = _positions(argnums, len(args))
    named = _named_leaves(loss, argnums, numbers, args)
    params = [leaf.value for leaf in named]
    trees = [jax.tree.structure(args[n]) for n in numbers]
    flat_loss, others = _flatten(loss, numbers, trees, args, kwargs)
    program, output = _read(flat_loss, params, others)
    _require_scalar(output, has_aux)
    program, closed_over = jaxpr.lift_constants(program)
    dependences = _dependences(program, len(params))
    _require_gradient(program, dependences, len(params), argnums)
    leaves = [
        Leaf(path=n.name, module=leaf_names.parent(n.path, n.name), shape=np.shape(n.value))
        for n in named
    ]
    selected = [s for s in sites.choose(program, dependences, leaves, level) if where(s.site)]
    return Plan(
        flat_loss=flat_loss,
        program=program,
        selected=selected,
        layout=_layout(program, dependences, leaves, selected),
        params=params,
        others=[*others, *closed_over],
        arguments=len(others),
        has_aux=has_aux,
        grads_like=functools.partial(_grads_like, trees, isinstance(argnums, int)),
        aux_like=functools.partial(_aux_like, jax.tree.structure(output[1]) if has_aux else None),
        dtype=jnp.result_type(jnp.float32, *(jnp.finfo(s.site.dtype).dtype for s in selected)),
    )


def tapped(plan: Plan, tap: Tap) -> Callable:
    """The loss of a plan as a function of its parameters and of the slots of its taps.

    Args:
      plan: of the loss.
      tap: what to do at each of its selected values; see `replay.Callbacks`.

    Returns:
      A function of the parameters' leaves, the slots by number of the value, and the program's
      other inputs. It returns the loss and a pair: its aux outputs, and what the taps measured.
    """
    callbacks = Callbacks(tap=tap, locals={s.value: s.local for s in plan.selected if s.local})

    def run(params, slots, others):
        arguments = [
            leaf if jaxpr.is_reference(jax.typeof(leaf)) else jnp.asarray(leaf)
            for leaf in (*params, *others)
        ]
        outputs, measured = replay(plan.program.frame, arguments, callbacks, slots)
        return outputs[0], (outputs[1:], measured)

    return run


def _dependences(program: Program, params: int) -> Dependences:
    """The dependences of a program whose first inputs are parameters."""
    param = [
        Dependence(kind=Kind.PARAM, sensitive=True, uses=frozenset({Use(LeafId(i), ())}))
        for i in range(params)
    ]
    data = [Dependence(kind=Kind.DATA)] * (len(program.frame.inputs) - params)
    return dependence.gather(program, [*param, *data], program.frame.outputs[:1])


def _layout(
    program: Program,
    dependences: Dependences,
    leaves: Sequence[Leaf],
    selected: Sequence[Selected],
) -> Layout:
    site_ids = {s.value: SiteId(i) for i, s in enumerate(selected)}
    return Layout(
        sites=tuple(s.site for s in selected),
        flow=flow_of(program.frame, site_ids, dependences),
        leaves=_leaf_places(program, dependences, leaves),
        notes=_notes(program, dependences),
        stops=_stops(program, dependences),
    )


def _grads_like(trees: list[Any], single: bool, grads: Sequence[Any]) -> PyTree:
    """Gradients as `jax.grad` returns them, from their leaves."""
    rebuilt = _trees(trees, grads)
    return rebuilt[0] if single else tuple(rebuilt)


def _aux_like(tree: Any, values: Sequence[Any]) -> Any:
    """What the loss returned beside its value, from its leaves; None where it has no tree."""
    return None if tree is None else jax.tree.unflatten(tree, values)


def _positions(argnums: int | Sequence[int], count: int) -> Sequence[int]:
    """The positions of the arguments with the parameters, counted from the first."""
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    numbers = [n % count if -count <= n < count else n for n in numbers]
    if bad := [n for n in numbers if n >= count]:
        raise ValueError(f"argnums has {bad[0]}, but the loss got {count} positional arguments.")
    return numbers


class _NamedLeaf(NamedTuple):
    name: str
    path: Any  # in its tree
    value: Any


def _named_leaves(loss, argnums, numbers: Sequence[int], args: tuple) -> list[_NamedLeaf]:
    """Every parameter leaf of the arguments of these numbers."""
    names = _argument_names(loss, len(args))
    leaves = []
    for number in numbers:
        prefix = "" if isinstance(argnums, int) else names[number]
        for path, value in jax.tree_util.tree_leaves_with_path(args[number]):
            name = leaf_names.join(prefix, path) or names[number]
            _require_float(name, value)
            leaves.append(_NamedLeaf(name=name, path=path, value=value))
    return leaves


def _flatten(loss, numbers: Sequence[int], trees: list[Any], args: tuple, kwargs: dict):
    """The loss as a function of two lists of arrays, parameters and others; and the others."""
    rest = (tuple(None if i in numbers else arg for i, arg in enumerate(args)), kwargs)
    leaves, structure = jax.tree.flatten(rest)
    dynamic = [i for i, leaf in enumerate(leaves) if isinstance(leaf, _ARRAYS)]

    def flat_loss(params, others):
        filled = list(leaves)
        for i, leaf in zip(dynamic, others, strict=True):
            filled[i] = leaf
        positional, keywords = jax.tree.unflatten(structure, filled)
        positional = list(positional)
        for number, tree in zip(numbers, _trees(trees, params), strict=True):
            positional[number] = tree
        return loss(*positional, **keywords)

    return flat_loss, [leaves[i] for i in dynamic]


def _trees(structures: list[Any], leaves: Sequence[Any]) -> list[PyTree]:
    """Trees of these structures, from the leaves of all of them."""
    rest = iter(leaves)
    return [
        jax.tree.unflatten(tree, [next(rest) for _ in range(tree.num_leaves)])
        for tree in structures
    ]


def _read(flat_loss, params, others):
    try:
        return jaxpr.read(flat_loss, params, others)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        error.add_note(
            "vanishing.probe traces the loss once, as jax.jit does: use jnp in place of np, and "
            "jax.lax.cond or jnp.where in place of `if`, on values that depend on the arguments."
        )
        raise


def _leaf_places(
    program: Program, dependences: Dependences, leaves: Sequence[Leaf]
) -> tuple[LeafPlace, ...]:
    levels = [0] * len(leaves)
    for value in filter(dependences.is_weight, dependences.of):
        for use in dependences.of[value].uses:
            levels[use.leaf] = max(levels[use.leaf], len(use.levels))
    return tuple(
        LeafPlace(
            label=leaf_names.indexed(leaf.path, range(depth)),
            lengths=leaf.shape[:depth],
            reach=_reach(value, dependences),
        )
        for leaf, depth, value in zip(leaves, levels, program.frame.inputs, strict=False)
    )


def _reach(value: ValueId, dependences: Dependences) -> str:
    if value in dependences.reaches_loss:
        return USED
    return STOPPED if value in dependences.used else UNUSED


def _notes(program: Program, dependences: Dependences) -> tuple[str, ...]:
    """What is inside of operations that are recorded only as a whole."""
    opaque = ("while", "custom_vjp", "shard_map", "pallas_call", "custom_linear_solve")
    nodes = [node for _, node in jaxpr.walk(program.frame)]
    return tuple(
        dict.fromkeys(
            f"what is inside of {node.primitive} at {sites.own_source(node) or 'an unknown line'}; "
            "its outputs are rows at level='op'."
            for node in nodes
            if node.equation.primitive.name.startswith(opaque)
            and any(dependences.on_path(value) for value in node.outputs)
        )
    )


def _stops(program: Program, dependences: Dependences) -> tuple[str, ...]:
    """Where a stop_gradient cuts a parameter off from the loss."""
    return tuple(
        dict.fromkeys(
            sites.own_source(node) or "an unknown line"
            for _, node in jaxpr.walk(program.frame)
            if node.primitive == "stop_gradient"
            and any(dependences.get(atom).sensitive for atom in node.inputs)
            and dependences.used.intersection(node.outputs)
        )
    )


def _argument_names(loss: Callable, count: int) -> list[str]:
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):  # some callables have no signature
        names = []
    return [names[i] if i < len(names) else f"arg{i}" for i in range(count)]


def _require_float(name: str, leaf: Any) -> None:
    if not isinstance(leaf, _ARRAYS):
        what = f"a {type(leaf).__name__}"
    elif not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        what = f"of dtype {jnp.result_type(leaf)}"
    else:
        return
    raise TypeError(
        f"the parameter {name} is {what}; a gradient needs floating-point or complex arrays. Pass "
        "the rest as another argument (equinox.partition and flax.nnx.split part a model in two)."
    )


def _require_gradient(program: Program, dependences: Dependences, params: int, argnums) -> None:
    if not dependences.reaches_loss.intersection(program.frame.inputs[:params]):
        raise ValueError(
            "no parameter reaches the loss, so every gradient is 0; look for stop_gradient, a cast "
            f"to integers, or parameters that argnums={argnums} leaves out."
        )


def _require_scalar(output: Any, has_aux: bool) -> None:
    if has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise ValueError("the loss must return a pair (value, aux) where has_aux=True.")
    value: Any = output[0] if has_aux else output
    if isinstance(value, tuple | list) and len(value) == 2 and not has_aux:
        raise ValueError("the loss returned a pair; pass has_aux=True if it is (value, aux).")
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        raise ValueError(f"the loss returned a {type(value).__name__}; it must be a real scalar.")
    if shape != ():
        raise ValueError(f"the loss returned {dtype}{list(shape)}; take a mean or a sum of it.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"the loss is of dtype {dtype}; it must be a real floating number.")
