"""Keeps the programs of probed losses, as `jax.jit` keeps those of functions.

A program is kept as long as its loss lives, for the structure and types of the arguments, the flags
and counts that the loss needs as values of Python, and the settings of JAX. It serves again where
all that the loss refers to, and the objects among its arguments, are what they were when it was
made (see `surroundings`); of many programs the last used ones are kept.
"""

import functools
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from vanishing.probing import surroundings
from vanishing.probing.arguments import Returned, Structure, traced_as
from vanishing.probing.measuring import Probed
from vanishing.probing.plan import Plan

PER_LOSS, IN_ALL = 64, 256  # programs that are kept

# Static leaves that are hardly met again: numbers with a fraction, and arrays.
_NOT_MET_AGAIN = (float, complex, np.inexact, np.ndarray, jax.Array)

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
    params: list[int]  # the numbers of their leaves among those of all arguments
    others: list[int]  # of all other leaves
    traced: list[int]  # of the others that the program takes
    static: list[int]  # of the others that it does not take
    closed_over: list[Any]  # arrays that the program takes beside them

    def __call__(self, leaves: Sequence[Any]) -> Probed:
        """The probed loss of the leaves of all arguments."""
        params = [leaves[i] for i in self.params]
        others = [*(leaves[i] for i in self.traced), *self.closed_over]
        outputs, grads, trace = self.run(params, others)
        value, aux = self.returned.rebuild(outputs, [leaves[i] for i in self.others])
        return Probed(value=value, grads=self.structure.grads_like(grads), aux=aux, trace=trace)


class Call(NamedTuple):
    """A call of a probed loss."""

    loss: Callable
    refers: tuple[Any, ...]  # what decides, beside the arguments, what the program is
    leaves: list[Any]  # of all arguments
    kind: Hashable | None  # what calls of one program have in common; None where it has no hash


class _Entry(NamedTuple):
    kind: Hashable
    static: tuple[int, ...]
    refers: list[Any]  # as `surroundings.held` gives it
    program: Program


class _Kept(NamedTuple):
    """What is kept of one loss, the last used first."""

    loss: weakref.ref
    entries: list[_Entry]


# By the identity of the loss, since losses may be equal, or have no hash; gone with the loss. The
# last used is the last.
_of_loss: dict[int, _Kept] = {}


def program_of(plan: Plan, run: Callable) -> Program:
    """The program of a planned loss that runs as `run` on the leaves of the plan."""
    structure = plan.arguments.structure
    params, others = structure.places()
    traced = [i for n, i in enumerate(others) if n not in plan.static]
    return Program(
        run=run,
        structure=structure,
        returned=plan.returned,
        params=params,
        others=others,
        traced=traced,
        static=[i for n, i in enumerate(others) if n in plan.static],
        closed_over=plan.others[len(traced) :],
    )


def call_of(refers: tuple[Any, ...], options: Hashable, args: tuple, kwargs: dict) -> Call:
    """A call of a loss with these arguments.

    Args:
      refers: the loss, and other functions that decide what its program is.
      options: of the probe.
      args: of the loss.
      kwargs: of the loss.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    settings = tuple(getattr(jax.config, name, None) for name in _SETTINGS)
    types = tuple(traced_as(leaf) or type(leaf) for leaf in leaves)
    kind = (options, tree, types, settings, jax.sharding.get_abstract_mesh())
    try:
        return Call(refers[0], refers, leaves, (hash(kind), kind))
    except TypeError:
        return Call(refers[0], refers, leaves, None)


def find(call: Call) -> Program | None:
    """The program that was kept for a call, if one was."""
    kept = _of_loss.get(id(call.loss))
    if kept is None or kept.loss() is not call.loss or call.kind is None:
        return None
    refers = functools.cache(lambda static: _refers(call, static))
    for place, entry in enumerate(kept.entries):
        if entry.kind != call.kind or (now := refers(entry.static)) is None:
            continue
        if surroundings.same(entry.refers, now):
            kept.entries.insert(0, kept.entries.pop(place))
            _of_loss[id(call.loss)] = _of_loss.pop(id(call.loss))
            return entry.program
    return None


def keep(program: Program, call: Call) -> None:
    """Keep a program for the next call like this one, where it serves such a call."""
    leaves, static = call.leaves, tuple(program.static)
    arrays = (*(leaves[i] for i in (*program.params, *program.traced)), *program.closed_over)
    if call.kind is None or any(isinstance(array, Tracer) for array in arrays):
        return
    if any(isinstance(leaves[i], _NOT_MET_AGAIN) for i in static):
        return
    refers = _refers(call, static)
    if refers is None or surroundings.reach(program.returned.aux, call.loss):
        return  # it would not be met again, or the loss would live as long as its program
    try:
        loss = weakref.ref(call.loss, functools.partial(_forget, id(call.loss)))
    except TypeError:  # an object without weak references
        return
    kept = _of_loss.pop(id(call.loss), None)
    entries = kept.entries if kept and kept.loss() is call.loss else []
    entry = _Entry(call.kind, static, surroundings.held(refers), program)
    _of_loss[id(call.loss)] = _Kept(loss, [entry, *entries][:PER_LOSS])
    while sum(len(kept.entries) for kept in _of_loss.values()) > IN_ALL:
        del _of_loss[next(iter(_of_loss))]


def _refers(call: Call, static: Sequence[int]) -> list[Any] | None:
    """All that decides what the program of a call is, beside its kind."""
    return surroundings.reached((*(call.leaves[i] for i in static), *call.refers))


def _forget(number: int, loss: weakref.ref) -> None:
    """A loss is gone."""
    if number in _of_loss and _of_loss[number].loss is loss:
        del _of_loss[number]
