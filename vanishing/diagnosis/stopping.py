"""Parameters whose gradient an optimiser's epsilon outweighs, found by trying the optimiser."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import PyTree
from vanishing.facts.stops import LARGE
from vanishing.probing import Trace

STALLED = 1e-6
"""Update over weight, in norm, over which a parameter moves: a thousandth of what is usual."""

OUTWEIGHED = 0.1
"""Step over that for a large gradient, under which the epsilon rules."""

REGROWN = 10.0
"""Growth of a gradient over the first steps that shows it to be small at the start alone, as in a
branch that begins near 0."""

UNLEARNT = 0.1
"""Loss from which on a small gradient is no sign that all is learnt."""

APART = 100.0
"""Gradient of another kernel over this one's that is no sign of that either."""


class Stopped(NamedTuple):
    """A parameter that an optimiser hardly moves, since its gradient is small."""

    param: int  # its number among those of the layout
    size: float  # root mean square of its gradient
    share: float  # its step over that for a large gradient
    half: float  # size of a gradient at which it would be half


def stopped(
    trace: Trace,
    grads: PyTree,
    moved: Callable[[PyTree], PyTree],
    gradient_after: Callable[[PyTree], np.ndarray],
) -> tuple[Stopped, ...]:
    """The kernels that an optimiser hardly moves, though it would for a larger gradient.

    Of an optimiser that is in proportion to the gradient, as SGD is, there are none: it has no size
    at which it stops.

    Args:
      trace: with the optimiser's updates.
      grads: of the parameters.
      moved: what a gradient, given for a few steps to a new state, adds to the parameters.
      gradient_after: norms of the parameters' gradients after that.
    """
    suspects = _suspects(trace)
    if not suspects:
        return ()
    still = moved(jax.tree.map(jnp.zeros_like, grads))  # as by a decay of the weights

    def norms(grads: PyTree, keep: Callable = lambda change: change) -> np.ndarray:
        change = jax.tree.map(lambda new, old: keep(new - old), moved(grads), still)
        return np.asarray(trace.with_updates(change).params.update, np.float64)

    signs = jax.tree.map(jnp.sign, grads)
    mixed = jax.tree.map(lambda s: s * jnp.where(_every_other(s), 1, LARGE).astype(s.dtype), signs)
    of_small = norms(mixed, lambda change: jnp.where(_every_other(change), change, 0))
    of_large = norms(mixed, lambda change: jnp.where(_every_other(change), 0, change))
    full, now = math.sqrt(2) * of_large, norms(grads)
    suspects = [
        i
        for i in suspects
        if of_small[i] > of_large[i] / math.sqrt(LARGE) and now[i] < OUTWEIGHED * full[i]
    ]
    if not suspects:
        return ()
    after = gradient_after(moved(grads))
    sizes = _sizes(trace)
    suspects = [i for i in suspects if after[i] < REGROWN * trace.params.gradient[i]]

    def step_of(size: float, i: int) -> float:
        return norms(jax.tree.map(lambda s: (size * s).astype(s.dtype), signs))[i]

    if not suspects:
        return ()
    first = suspects[0]  # of all of them it is the same optimiser
    half = _reached(lambda size: step_of(size, first), full[first] / 2, sizes[first])
    return tuple(Stopped(i, sizes[i], float(now[i] / full[i]), half) for i in suspects)


def _reached(step: Callable[[float], float], goal: float, low: float) -> float:
    """The size of a gradient, from `low` to `LARGE`, from which on a step reaches its goal.

    >>> print(f"{_reached(lambda size: size / (size + 1e-8), 0.5, 1e-15):.1e}")
    1.0e-08
    """
    below, above = math.log10(low), math.log10(LARGE)
    while above - below > 0.01:
        middle = (below + above) / 2
        below, above = (middle, above) if step(10**middle) < goal else (below, middle)
    return 10 ** ((below + above) / 2)


def _sizes(trace: Trace) -> list[float]:
    """The root mean square of each parameter's gradient."""
    leaves = (trace.layout.leaves[leaf] for leaf in trace.layout.param_leaves)
    counts = (max(1, math.prod(leaf.own_shape)) for leaf in leaves)
    gradients = map(float, trace.params.gradient)
    return [norm / math.sqrt(n) for norm, n in zip(gradients, counts, strict=True)]


def _suspects(trace: Trace) -> list[int]:
    """The kernels that hardly move, if that is no sign that all is learnt."""
    weight, update = (np.asarray(x, np.float64) for x in (trace.params.weight, trace.params.update))
    sizes, leaves = _sizes(trace), trace.layout.param_leaves
    kernels = [i for i, leaf in enumerate(leaves) if len(trace.layout.leaves[leaf].own_shape) > 1]
    if not all(np.isfinite(x).all() for x in (weight, update, sizes)):
        return []
    slow = [i for i in kernels if sizes[i] > 0 and 0 < update[i] < STALLED * weight[i]]
    largest = max((sizes[i] for i in kernels), default=0.0)
    unlearnt = abs(float(trace.value)) >= UNLEARNT
    return [i for i in slow if unlearnt or largest > APART * sizes[i]]


def _every_other(x: jax.Array) -> jax.Array:
    return (jnp.arange(x.size) % 2 == 0).reshape(x.shape)
