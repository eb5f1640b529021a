"""A loss on its way to being probed: its program, the places to watch, how its trees come apart."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import PyTree
from vanishing.probing import dependence, jaxpr, leaf_names, sites
from vanishing.probing.dependence import Fact, Facts, Kind, Use
from vanishing.probing.jaxpr import Program
from vanishing.probing.layout import STOPPED, UNUSED, USED, Layout, LeafPlace
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.lineage import flow_of
from vanishing.probing.sites import Selected, Site

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


class Plan(NamedTuple):
    """A loss as it is going to be replayed."""

    flat_loss: Callable[[list[Any], list[Any]], Any]  # of the leaves: params, others
    program: Program
    selected: list[Selected]
    layout: Layout
    params: list[Any]  # leaves
    others: list[Any]  # the program's other inputs: those of the loss, then what it closes over
    arguments: int  # how many of the others are the loss's
    grads_like: Callable[[list[Any]], PyTree]
    aux_like: Callable[[list[Any]], Any]
    dtype: Any  # of the summaries


def make_plan(
    loss: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    level: str,
    where: Callable[[Site], bool],
    args: tuple,
    kwargs: dict,
) -> Plan:
    """The plan of a loss, read from what it does with these arguments; see `vanishing.probe`."""
    numbers = _positions(argnums, len(args))
    named = _named_leaves(loss, argnums, numbers, args)
    params = [leaf for *_, leaf in named]
    trees = [jax.tree.structure(args[n]) for n in numbers]
    flat_loss, others = _flatten(loss, numbers, trees, args, kwargs)
    program, output = _read(flat_loss, params, others)
    _require_scalar(output, has_aux)
    program, closed_over = jaxpr.lift_constants(program)
    known = dependence.gather(
        program,
        [
            *(Fact(Kind.PARAM, True, frozenset({Use(i, ())})) for i in range(len(params))),
            *(Fact(Kind.DATA) for _ in others),
            *(Fact(Kind.NOTHING) for _ in closed_over),
        ],
        program.frame.outputs[:1],
    )
    if not any(number in known.felt for number in program.frame.inputs[: len(params)]):
        raise ValueError(
            "no parameter reaches the loss, so every gradient is 0; look for stop_gradient, a cast "
            f"to integers, or parameters that argnums={argnums} leaves out."
        )
    leaves = [
        Leaf(name, leaf_names.parent(path, name), np.shape(leaf)) for name, path, leaf in named
    ]
    selected = [s for s in sites.choose(program, known, leaves, level) if where(s.site)]
    layout = Layout(
        tuple(s.site for s in selected),
        flow_of(program.frame, {s.value: i for i, s in enumerate(selected)}, known),
        _leaf_places(program, known, leaves),
        _notes(program, known),
        _stops(program, known),
    )

    def grads_like(grads):
        rebuilt = _trees(trees, grads)
        return rebuilt[0] if isinstance(argnums, int) else tuple(rebuilt)

    def aux_like(values):
        return jax.tree.unflatten(jax.tree.structure(output[1]), values) if has_aux else None

    return Plan(
        flat_loss,
        program,
        selected,
        layout,
        params,
        [*others, *closed_over],
        len(others),
        grads_like,
        aux_like,
        jnp.result_type(jnp.float32, *(s.site.dtype for s in selected)),
    )


def _positions(argnums: int | Sequence[int], count: int) -> list[int]:
    """The arguments with the parameters, counted from the first."""
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    numbers = [n % count if -count <= n < count else n for n in numbers]
    if bad := [n for n in numbers if n >= count]:
        raise ValueError(f"argnums has {bad[0]}, but the loss got {count} positional arguments.")
    return numbers


def _named_leaves(loss, argnums, numbers: list[int], args: tuple) -> list[tuple[str, Any, Any]]:
    """Name, path in its tree, and value of every parameter."""
    names = _argument_names(loss, len(args))
    found = []
    for number in numbers:
        prefix = "" if isinstance(argnums, int) else names[number]
        for path, leaf in jax.tree_util.tree_leaves_with_path(args[number]):
            found.append((leaf_names.join(prefix, path) or names[number], path, leaf))
            _require_float(found[-1][0], leaf)
    return found


def _flatten(loss, numbers: list[int], trees: list[Any], args: tuple, kwargs: dict):
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


def _leaf_places(program: Program, known: Facts, leaves: Sequence[Leaf]) -> tuple[LeafPlace, ...]:
    levels = dict.fromkeys(range(len(leaves)), 0)
    for fact in known.of.values():
        for use in fact.uses:
            levels[use.leaf] = max(levels[use.leaf], len(use.levels))
    places = []
    for i, leaf in enumerate(leaves):
        number = program.frame.inputs[i]
        reach = USED if number in known.felt else STOPPED if number in known.used else UNUSED
        lengths = leaf.shape[: levels[i]]
        places.append(LeafPlace(leaf_names.indexed(leaf.path, range(levels[i])), lengths, reach))
    return tuple(places)


def _notes(program: Program, known: Facts) -> tuple[str, ...]:
    """What is inside of operations that are recorded only as a whole."""
    whole = ("while", "custom_vjp", "shard_map", "pallas_call", "custom_linear_solve")
    nodes = [node for _, node in jaxpr.walk(program.frame)]
    return tuple(
        dict.fromkeys(
            f"what is inside of {node.primitive} at {sites.own_source(node) or 'an unknown line'}; "
            "its outputs are rows at level='op'."
            for node in nodes
            if node.equation.primitive.name.startswith(whole)
            and any(known.on_path(value) for value in node.outputs)
        )
    )


def _stops(program: Program, known: Facts) -> tuple[str, ...]:
    """Where a stop_gradient keeps back what the loss would otherwise feel."""
    return tuple(
        dict.fromkeys(
            sites.own_source(node) or "an unknown line"
            for _, node in jaxpr.walk(program.frame)
            if node.primitive == "stop_gradient"
            and any(known.get(atom).sensitive for atom in node.inputs)
            and known.used.intersection(node.outputs)
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
    elif not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        what = f"of dtype {jnp.result_type(leaf)}"
    else:
        return
    raise TypeError(
        f"the parameter {name} is {what}; a gradient needs floating-point arrays. Pass the rest as "
        "another argument (equinox.partition and flax.nnx.split part a model in two)."
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
