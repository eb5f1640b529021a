"""What a call of a loss shows beside its trace."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import PyTree
from vanishing.probing import Probe, Probed, births, cancelling, inputs, twice
from vanishing.probing.births import Birth
from vanishing.probing.cancelling import Cancelled
from vanishing.probing.plan import Plan

SMALL = 1e-3
"""Norm of a parameter's gradient over the largest, under which it is asked whether terms cancel:
a penalty of usual size keeps it that far from rounding."""


class Argument(NamedTuple):
    """A floating-point leaf of the arguments that holds no parameters."""

    name: str
    rms: float
    largest: float


class Leaf(NamedTuple):
    """A parameter leaf, and what the optimiser makes of it."""

    same_weights: bool  # are the weights of all units equal?
    same_gradients: bool  # are their gradients equal, and not 0?
    swallowed: float = np.nan  # share of the elements that stay what they are by rounding
    broken: bool = False  # is the update not finite?


class Known(NamedTuple):
    """What the arguments of a loss, and its program, show beside the trace."""

    births: tuple[Birth, ...] = ()  # of the inf and nan that reach the loss or a gradient
    arguments: tuple[Argument, ...] = ()
    leaves: tuple[Leaf, ...] = ()  # in the order of the layout's
    softmax_twice: tuple[str, ...] = ()  # places
    no_input: tuple[int, ...] = ()  # leaves that only meet zeros that are made of data
    moves_later: bool = False  # does the optimiser move the parameters after steps of 0?
    cancelled: tuple[Cancelled, ...] = ()  # gradients of which nothing but rounding is left


def known_of(
    probe: Probe,
    probed: Probed,
    args: tuple,
    kwargs: dict,
    updates: PyTree = None,
    moves_later: bool = False,
) -> Known:
    """What is known of a call of a probed loss.

    Args:
      probe: of the loss.
      probed: what the call returned.
      args: of the call.
      kwargs: of the call.
      updates: of an optimiser, if there is one.
      moves_later: see `Known`.
    """
    plan = probe.plan(args, kwargs)
    names = plan.arguments.names(probe.loss)
    gradient = np.asarray(probed.trace.params.gradient)
    results = np.array([np.sum(np.asarray(probed.value)), *gradient])
    params_are_finite = np.isfinite(np.asarray(probed.trace.params.weight)).all()
    is_broken = params_are_finite and not np.isfinite(results).all()
    return Known(
        births=births.reaching(plan, names) if is_broken else (),
        arguments=tuple(_arguments(plan, names)),
        leaves=tuple(_leaves(plan, probed.grads, updates)),
        softmax_twice=twice.softmax_of_probabilities(plan.program),
        no_input=inputs.empty(plan) if (gradient == 0).any() else (),
        moves_later=moves_later,
        cancelled=cancelling.cancelled(plan) if _is_small(gradient).any() else (),
    )


def _is_small(gradients: np.ndarray) -> np.ndarray:
    """Which gradients are so small beside the largest that they may be rounding?"""
    finite = np.isfinite(gradients).all() and gradients.size > 0
    return gradients < SMALL * gradients.max() if finite else np.zeros(0, bool)


def _arguments(plan: Plan, names: list[str]) -> Any:
    for name, leaf in zip(names, plan.arguments.others, strict=True):
        if isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating):
            x = np.asarray(leaf, np.float64)
            if x.size:
                yield Argument(name, float(np.sqrt(np.mean(x**2))), float(np.max(np.abs(x))))


def _leaves(plan: Plan, grads: PyTree, updates: PyTree) -> list[Leaf]:
    gradients = jax.tree.leaves(grads)
    steps = [None] * len(gradients) if updates is None else jax.tree.leaves(updates)
    return [
        Leaf(*(x.item() for x in jax.device_get(_facts(*leaf))))
        for leaf in zip(plan.params, gradients, steps, strict=True)
    ]


@jax.jit
def _facts(weight, gradient, update):
    same, same_gradient = jnp.bool_(False), jnp.bool_(False)
    for axis in {0, weight.ndim - 1} if weight.ndim >= 2 else ():
        if weight.shape[axis] > 1:
            equal = _is_constant(weight, axis, 0.0)
            slopes = _is_constant(gradient, axis, 1e-4) & jnp.any(gradient != 0)
            same, same_gradient = same | equal, same_gradient | (equal & slopes)
    if update is None:
        return same, same_gradient
    moves = (update != 0) & (weight != 0)
    stays = moves & (weight + update.astype(weight.dtype) == weight)
    share = jnp.sum(stays) / jnp.maximum(jnp.sum(moves), 1)
    return same, same_gradient, share, ~jnp.all(jnp.isfinite(update))


def _is_constant(x, axis: int, tolerance: float):
    """Are all slices along an axis the same, up to a share of the largest element?"""
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    return jnp.all(jnp.abs(x - first) <= tolerance * jnp.max(jnp.abs(x)))
