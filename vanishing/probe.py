"""The probe: a transformation, like `jax.grad`, that measures every layer's signal and gradient."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing import facts, jaxpr, paths, sites, summary, tap
from vanishing.check import Check, compare
from vanishing.facts import Fact, Facts, Kind, Use
from vanishing.flow import flow_of
from vanishing.jaxpr import Program, Taps
from vanishing.rows import Leaf
from vanishing.sites import Selected, Site
from vanishing.summary import Backward, Forward
from vanishing.trace import (
    STOPPED,
    UNUSED,
    USED,
    Layout,
    LeafPlace,
    ParamNorms,
    PyTree,
    Trace,
    leaf_norms,
)

LEVELS = ("layer", "op")
USUAL = ("mean", "rms", "largest", "zeros", "non_finite", "saturated")
SUMMARIES = (*USUAL, "dead_units", "similarity")
_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


class Probed(NamedTuple):
    """What a probed loss returns."""

    value: Float[Array, ""]
    grads: PyTree  # as `jax.grad` returns them
    aux: Any  # what the loss returned beside its value; None without `has_aux`
    trace: Trace


def probe(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    level: str = "layer",
    where: Callable[[Site], bool] = lambda site: True,
    summaries: Collection[str] = USUAL,
) -> "Probe":
    """A function of the same arguments that also measures signal and gradient at every layer.

    The network is not touched: the loss is traced once, as `jax.jit` does, and replayed with an
    identity after each place of interest whose backward rule hands a summary of the cotangent out.
    Value and gradients are those of `jax.value_and_grad`. It works inside and outside of `jax.jit`,
    under `jax.vmap`, in a scanned training loop and in `jax.shard_map`. Every call outside of
    `jax.jit` compiles anew, so call `jax.jit(probe(loss))` if you call it often.

    Args:
      loss: a function of parameters and anything else that returns a real scalar, or with `has_aux`
        a pair of it and any tree.
      argnums: which arguments hold the parameters: trees of floating-point arrays.
      has_aux: does the loss return a pair?
      level: "layer" for one row for each operation with parameters, for each nonlinearity that
        follows one, and for each sum of a residual stream; "op" for every floating-point operation
        on the backward path.
      where: keeps only the sites for which it is true, for instance
        `lambda site: site.kind == "matrix product"`.
      summaries: names of entries of `vanishing.summary.Forward` and `Backward`. The usual ones are
        all but "dead_units" and "similarity"; `("rms",)` alone costs the least.

    Returns:
      A `Probe`: call it for a `Probed`; its `check` proves the numbers on the same arguments.

    Raises:
      ValueError: `level` or one of `summaries` is unknown.

    >>> import jax.numpy as jnp
    >>> from vanishing.probe import probe
    >>> def loss(params, x):
    ...     h = jax.nn.sigmoid(x @ params["w1"])
    ...     return jnp.mean((h @ params["w2"]) ** 2)
    >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 1))}
    >>> probed = probe(loss)(params, jnp.ones((8, 3)))
    >>> [site.op for site in probed.trace.sites]
    ['dot_general', 'logistic', 'dot_general']
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; it must be one of {', '.join(LEVELS)}.")
    if unknown := sorted(set(summaries) - set(SUMMARIES)):
        raise ValueError(f"summaries has {unknown[0]!r}; it may hold {', '.join(SUMMARIES)}.")
    return Probe(loss, argnums, has_aux, level, where, tuple(summaries))


@dataclasses.dataclass(frozen=True)
class Probe:
    """A probed loss; see `probe`."""

    loss: Callable[..., Any]
    argnums: int | Sequence[int]
    has_aux: bool
    level: str
    where: Callable[[Site], bool]
    summaries: tuple[str, ...]

    def __call__(self, *args, **kwargs) -> Probed:
        """The loss's value, gradients and aux, and the trace.

        Raises:
          TypeError: a parameter is no floating-point array.
          ValueError: the loss is no real scalar, or no parameter reaches it.
        """
        return self._measure(_plan(self, args, kwargs))

    def _measure(self, plan: "_Plan") -> Probed:
        slots = {
            selected.value: jnp.zeros((*selected.site.lengths, tap.SLOT_SIZE), plan.dtype)
            for selected in plan.selected
        }
        run = jax.value_and_grad(_tapped(plan, _measuring_tap(self.summaries)), (0, 1), True)

        @jax.jit
        def measured(params, others):
            (value, (aux, measured)), (grads, cotangents) = run(params, slots, others)
            rows = _rows(plan, measured, cotangents)
            trace = Trace(*rows, _norms(plan, params, grads), value, plan.layout)
            return Probed(value, plan.grads_like(grads), plan.aux_like(aux), trace)

        return measured(plan.params, plan.others)

    def check(self, *args, rows: int = 8, **kwargs) -> Check:
        """Prove the trace's numbers on these arguments, against gradients of perturbations.

        The loss is replayed with a perturbation of zeros added to the signal at a sample of rows.
        Its gradient is the cotangent itself, which is summarised by NumPy in float64; no part of
        the tap or of the summaries is used. Value and gradients are compared with those of
        `jax.value_and_grad`.

        Args:
          *args: as for the call.
          rows: how many rows to check, spread evenly; 0 for all of them.
          **kwargs: as for the call.

        Returns:
          The relative error of every number that was checked; print it.
        """
        plan = _plan(self, args, kwargs)
        probed = self._measure(plan)
        count = len(probed.trace)
        chosen = np.unique(np.linspace(0, count - 1, min(rows or count, count)).astype(int))
        watched = {plan.layout.instances[row].site for row in chosen}
        zeros = {
            s.value: jnp.zeros((*s.site.lengths, *s.site.shape), s.site.dtype)
            for i, s in enumerate(plan.selected)
            if i in watched
        }

        def perturb(number, x, slot, local):
            del number, local
            return x + slot, jax.lax.stop_gradient(x)

        run = jax.value_and_grad(_tapped(plan, perturb), (0, 1), True)
        (_, (_, signals)), (_, cotangents) = jax.jit(run)(plan.params, zeros, plan.others)
        places = [
            (int(row), plan.selected[place.site].value, place.indices)
            for row, place in ((row, plan.layout.instances[row]) for row in chosen)
        ]
        plain = jax.jit(jax.value_and_grad(plan.flat_loss, 0, self.has_aux))
        plain = plain(plan.params, plan.others[: plan.arguments])
        value = plain[0][0] if self.has_aux else plain[0]
        grads = jax.tree.leaves(probed.grads)
        return compare(probed.trace, grads, places, signals, cotangents, value, plain[1])


class _Plan(NamedTuple):
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


def _plan(probe: Probe, args: tuple, kwargs: dict) -> _Plan:
    numbers = (probe.argnums,) if isinstance(probe.argnums, int) else tuple(probe.argnums)
    numbers = tuple(n % len(args) if -len(args) <= n < len(args) else n for n in numbers)
    if bad := [n for n in numbers if n >= len(args)]:
        raise ValueError(
            f"argnums has {bad[0]}, but the loss got {len(args)} positional arguments."
        )
    names = _argument_names(probe.loss, len(args))
    prefixes = [""] if isinstance(probe.argnums, int) else [names[n] for n in numbers]
    trees = [args[n] for n in numbers]
    found = [
        (paths.join(prefix, path), path, leaf)
        for prefix, tree in zip(prefixes, trees, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    named = [(full or names[numbers[0]], path, leaf) for full, path, leaf in found]
    for name, _, leaf in named:
        _require_float(name, leaf)
    params = [leaf for *_, leaf in named]
    param_trees = [jax.tree.structure(tree) for tree in trees]
    rest = (tuple(None if i in numbers else arg for i, arg in enumerate(args)), kwargs)
    leaves, structure = jax.tree.flatten(rest)
    dynamic = [i for i, leaf in enumerate(leaves) if isinstance(leaf, _ARRAYS)]

    def flat_loss(params, dynamics):
        filled = list(leaves)
        for i, leaf in zip(dynamic, dynamics, strict=True):
            filled[i] = leaf
        positional, keywords = jax.tree.unflatten(structure, filled)
        positional, rest = list(positional), list(params)
        for number, tree in zip(numbers, param_trees, strict=True):
            own, rest = rest[: tree.num_leaves], rest[tree.num_leaves :]
            positional[number] = jax.tree.unflatten(tree, own)
        return probe.loss(*positional, **keywords)

    others = [leaves[i] for i in dynamic]
    try:
        program, output = jaxpr.read(flat_loss, params, others)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        error.add_note(
            "vanishing.probe traces the loss once, as jax.jit does: use jnp in place of np, and "
            "jax.lax.cond or jnp.where in place of `if`, on values that depend on the arguments."
        )
        raise
    _require_scalar(output, probe.has_aux)
    inputs = [Fact(Kind.PARAM, True, frozenset({Use(i, ())})) for i in range(len(params))]
    inputs += [Fact(Kind.DATA)] * len(others)
    program, closed_over = jaxpr.lift_constants(program)
    inputs += [Fact(Kind.NOTHING)] * len(closed_over)
    known = facts.gather(program, inputs, program.frame.outputs[:1])
    if not any(number in known.felt for number in program.frame.inputs[: len(params)]):
        raise ValueError(
            "no parameter reaches the loss, so every gradient is 0; look for stop_gradient, a cast "
            f"to integers, or parameters that argnums={probe.argnums} leaves out."
        )
    places = _leaf_places(program, known, [name for name, *_ in named], params)
    chosen = sites.choose(
        program,
        known,
        [Leaf(name, paths.parent(path, name), np.shape(leaf)) for name, path, leaf in named],
        probe.level,
    )
    selected = [s for s in chosen if probe.where(s.site)]
    index = {s.value: i for i, s in enumerate(selected)}
    layout = Layout(
        tuple(s.site for s in selected),
        flow_of(program.frame, index, known),
        places,
        _notes(program, known),
    )

    def grads_like(grads):
        rebuilt, rest = [], list(grads)
        for tree in param_trees:
            rebuilt.append(jax.tree.unflatten(tree, rest[: tree.num_leaves]))
            rest = rest[tree.num_leaves :]
        return rebuilt[0] if isinstance(probe.argnums, int) else tuple(rebuilt)

    def aux_like(values):
        return jax.tree.unflatten(jax.tree.structure(output[1]), values) if probe.has_aux else None

    widths = [jnp.promote_types(s.site.dtype, jnp.float32) for s in selected]
    return _Plan(
        flat_loss,
        program,
        selected,
        layout,
        params,
        [*others, *closed_over],
        len(others),
        grads_like,
        aux_like,
        jnp.result_type(jnp.float32, *widths),
    )


def _tapped(plan: _Plan, tap_function):
    """The loss as a function of its parameters and of the slots of its taps."""
    taps = Taps(tap_function, {s.value: s.local for s in plan.selected if s.local})

    def run(params, slots, others):
        arguments = [jnp.asarray(leaf) for leaf in (*params, *others)]
        outputs, measured = jaxpr.replay(plan.program.frame, arguments, taps, slots)
        return outputs[0], (outputs[1:], measured)

    return run


def _measuring_tap(wanted: tuple[str, ...]):
    slopes = {}  # found once for each different nonlinearity

    def measure(number, x, slot, local):
        slope, largest = None, float("nan")
        if local is not None and "saturated" in wanted:
            function, root = local
            traced = jax.make_jaxpr(function)(root)
            key = number if traced.consts else str(traced)
            if key not in slopes:
                slopes[key] = summary.largest_slope(function, root.shape, root.dtype)
            largest = slopes[key]
            if np.isfinite(largest):
                slope = summary.slope(function, jax.lax.stop_gradient(root))
        forward = summary.forward(jax.lax.stop_gradient(x), wanted, slope, largest)
        ran = jnp.ones((), slot.dtype)
        measured = jnp.stack([*(entry.astype(slot.dtype) for entry in forward), ran])
        return tap.watch(wanted)(x, slot), measured

    return measure


def _rows(plan: _Plan, measured, cotangents) -> tuple[Forward, Backward]:
    def in_order(by_value, size: int):
        flat = [by_value[s.value].reshape(-1, size).astype(plan.dtype) for s in plan.selected]
        stacked = jnp.concatenate(flat) if flat else jnp.zeros((0, size), plan.dtype)
        return stacked[plan.layout.order]

    *forward, ran = in_order(measured, len(Forward._fields) + 1).T
    backward = in_order(cotangents, tap.SLOT_SIZE)
    backward = jnp.where(jnp.isnan(ran)[:, None], jnp.nan, backward)  # a branch not taken
    return Forward(*forward), Backward(*backward.T)


def _norms(plan: _Plan, params: list[Any], grads: list[Any]) -> ParamNorms:
    weight = leaf_norms(params, plan.layout.leaves)
    gradient = leaf_norms(grads, plan.layout.leaves)
    return ParamNorms(weight, gradient, jnp.full_like(weight, jnp.nan))


def _leaf_places(program: Program, known: Facts, names, params) -> tuple[LeafPlace, ...]:
    levels = dict.fromkeys(range(len(names)), 0)
    for fact in known.of.values():
        for use in fact.uses:
            levels[use.leaf] = max(levels[use.leaf], len(use.levels))
    places = []
    for i, name in enumerate(names):
        number = program.frame.inputs[i]
        reach = USED if number in known.felt else STOPPED if number in known.used else UNUSED
        lengths = tuple(np.shape(params[i])[: levels[i]])
        places.append(LeafPlace(paths.indexed(name, range(levels[i])), lengths, reach))
    return tuple(places)


def _notes(program: Program, known: Facts) -> tuple[str, ...]:
    """What is inside of operations that are recorded only as a whole."""
    whole = ("while", "custom_vjp", "shard_map", "pallas_call", "custom_linear_solve")
    nodes = [node for _, node in facts.walk(program.frame)]
    return tuple(
        dict.fromkeys(
            f"what is inside of {node.primitive} at {sites.own_source(node) or 'an unknown line'}; "
            "its outputs are rows at level='op'."
            for node in nodes
            if node.equation.primitive.name.startswith(whole)
            and any(known.on_path(value) for value in node.outputs)
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
