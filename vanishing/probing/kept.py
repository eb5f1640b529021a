"""Keeps the programs of probed losses, as `jax.jit` keeps those of functions.

A program is kept as long as its loss lives, for the structure and types of the arguments, the flags
and counts that the loss needs as values of Python, and the settings of JAX. It is made anew where a
variable that the loss refers to has been bound to something else; a change inside of an object, of
a list or of a module, is not seen, as by `jax.jit`.
"""

import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from vanishing.probing.arguments import Returned, Structure
from vanishing.probing.measuring import Probed
from vanishing.probing.plan import Plan

# Settings that change what a loss is traced to; `jax.jit` looks at the same.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_debug_nans",
    "jax_disable_jit",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_device",
)


class Program(NamedTuple):
    """A compiled loss, and how to call it with the arguments of the loss."""

    run: Callable[[list[Any], list[Any]], tuple]
    structure: Structure
    returned: Returned
    params: tuple[int, ...]  # the numbers of their leaves among those of all arguments
    others: tuple[int, ...]  # of all other leaves
    traced: tuple[int, ...]  # of the others that the program takes
    closed_over: list[Any]  # arrays that the program takes beside them
    refers_to: tuple[Any, ...]  # see `_references`

    def __call__(self, leaves: Sequence[Any]) -> Probed:
        """The probed loss of the leaves of all arguments."""
        params = [leaves[i] for i in self.params]
        others = [*(leaves[i] for i in self.traced), *self.closed_over]
        outputs, grads, trace = self.run(params, others)
        value, aux = self.returned.rebuild(outputs, [leaves[i] for i in self.others])
        return Probed(value=value, grads=self.structure.grads_like(grads), aux=aux, trace=trace)


class _Kept(NamedTuple):
    """What is kept of one loss."""

    statics: dict[Hashable, list[frozenset[int]]]  # by options and structure of the arguments
    programs: dict[Hashable, Program]


# By the identity of the loss, since losses may be equal, or have no hash; gone with the loss.
_of_loss: dict[int, tuple[weakref.ref, _Kept]] = {}


def program_of(plan: Plan, run: Callable, args: tuple, kwargs: dict[str, Any]) -> Program:
    """The program of a planned loss that runs as `run` on the leaves of the plan."""
    structure = plan.arguments.structure
    places, start = [], 0
    for tree in (*args, kwargs):
        count = jax.tree.structure(tree).num_leaves
        places.append(range(start, start + count))
        start += count
    positions = structure.positions
    others = [i for n, r in enumerate(places) if n not in positions for i in r]
    traced = [i for n, i in enumerate(others) if n not in plan.static]
    return Program(
        run=run,
        structure=structure,
        returned=plan.returned,
        params=tuple(i for n in positions for i in places[n]),
        others=tuple(others),
        traced=tuple(traced),
        closed_over=plan.others[len(traced) :],
        refers_to=(),
    )


def find(loss: Callable, options: Hashable, leaves: Sequence[Any], tree: Any) -> Program | None:
    """The program that was kept for a loss and these arguments, if one was.

    Args:
      loss: that is probed.
      options: of the probe.
      leaves: of all arguments of the call.
      tree: what they are the leaves of.
    """
    kind = _kind(options, tree)
    if id(loss) not in _of_loss or kind is None:
        return None
    _, kept = _of_loss[id(loss)]
    for static in kept.statics.get(kind, ()):
        key = _key(kind, leaves, static)
        program = kept.programs.get(key) if key is not None else None
        if program and _same(program.refers_to, _references(loss)):
            return program
    return None


def keep(
    program: Program, loss: Callable, options: Hashable, leaves: Sequence[Any], tree: Any
) -> None:
    """Keep a program for the next call, where it does not depend on what may not be kept."""
    arrays = (*(leaves[i] for i in (*program.params, *program.traced)), *program.closed_over)
    if any(isinstance(array, Tracer) for array in arrays):
        return
    kind = _kind(options, tree)
    static = frozenset(program.others) - frozenset(program.traced)
    key = None if kind is None else _key(kind, leaves, static)
    try:
        reference = weakref.ref(loss, lambda _, key=id(loss): _of_loss.pop(key, None))
    except TypeError:  # an object without weak references
        return
    if key is None:
        return
    _, kept = _of_loss.setdefault(id(loss), (reference, _Kept({}, {})))
    statics = kept.statics.setdefault(kind, [])
    if static not in statics:
        statics.append(static)
    kept.programs[key] = program._replace(refers_to=_references(loss))


def _kind(options: Hashable, tree: Any) -> Hashable | None:
    """What programs of one kind have in common, apart from the loss; None where it has no hash."""
    settings = tuple(getattr(jax.config, name, None) for name in _SETTINGS)
    return _if_hashable((options, tree, settings, jax.sharding.get_abstract_mesh()))


def _key(kind: Hashable, leaves: Sequence[Any], static: frozenset[int]) -> Hashable | None:
    """What a program is kept under; None where it would hardly be met again.

    That is where a static leaf is a number with a fraction, an array, or has no hash.
    """
    types_of = []
    for i, leaf in enumerate(leaves):
        if i not in static:
            types_of.append(jax.typeof(leaf))
        elif isinstance(leaf, float | complex | np.inexact | np.ndarray | jax.Array):
            return None
        else:
            types_of.append((type(leaf), leaf))  # 1 and True are equal
    return _if_hashable((kind, tuple(types_of)))


def _if_hashable(key: tuple) -> tuple | None:
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _references(loss: Callable) -> tuple[Any, ...]:
    """What the variables are bound to that a function refers to outside of itself."""
    function = getattr(loss, "__wrapped__", loss)
    if not isinstance(function, types.FunctionType):
        return ()
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_bound(cell)]
    names = function.__code__.co_names
    return (*cells, *(function.__globals__.get(name) for name in names))


def _is_bound(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
