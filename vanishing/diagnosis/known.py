"""What a call of a loss shows beside its trace."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._types import PyTree
from vanishing.diagnosis.stopping import Stopped
from vanishing.probing import (
    Probe,
    Probed,
    Trace,
    births,
    cancelling,
    inputs,
    linear,
    silent,
    skips,
    targets,
    twice,
)
from vanishing.probing.births import Birth
from vanishing.probing.cancelling import Cancelled
from vanishing.probing.plan import Plan
from vanishing.probing.silent import Silent
from vanishing.probing.skips import ScaledSkip
from vanishing.probing.targets import Unreached
from vanishing.probing.twice import Twice

SMALL = 1e-3
"""Norm of a parameter's gradient over the largest, under which it is asked whether terms cancel:
a penalty of usual size keeps it that far from rounding."""


INSENSITIVE = 1e-5
"""Gradient times weight, over the loss, under which the same is asked."""


TWIN = 1e-5
"""Difference of two units' gradients over their size under which it is rounding."""


class Argument(NamedTuple):
    """A floating-point leaf of the arguments that holds no parameters."""

    name: str
    rms: float
    largest: float


class Leaf(NamedTuple):
    """A parameter leaf, and what the optimiser makes of it."""

    twins: float  # share of its units that have another of the same weights and gradients
    swallowed: float = np.nan  # share of the elements that stay what they are by rounding
    broken: bool = False  # is the update not finite?
    peak: float = np.nan  # its largest number over its root mean square


class Step(NamedTuple):
    """What an optimiser makes of the gradients."""

    updates: PyTree = None
    moves_later: bool = False  # does it move the parameters after steps of 0?
    kept: str = ""  # what in its state held an inf or nan before the step
    stopped: tuple[Stopped, ...] = ()  # kernels that it hardly moves, for its epsilon


class Known(NamedTuple):
    """What the arguments of a loss, and its program, show beside the trace."""

    births: tuple[Birth, ...] = ()  # of the inf and nan that reach the loss or a gradient
    arguments: tuple[Argument, ...] = ()
    leaves: tuple[Leaf, ...] = ()  # in the order of the layout's
    softmax_twice: tuple[Twice, ...] = ()
    no_input: tuple[int, ...] = ()  # leaves that only meet zeros that are made of data
    silent: tuple[Silent, ...] = ()  # leaves whose gradient is and stays 0
    cancelled: tuple[Cancelled, ...] = ()  # gradients of which nothing but rounding is left
    skips: tuple[ScaledSkip, ...] = ()  # connections that a number of the program multiplies
    factors: tuple[ScaledSkip, ...] = ()  # under a hundredth, that the program multiplies by
    linear: tuple[tuple[int, int], ...] = ()  # leaves of kernels that could be a single one
    unreached: tuple[Unreached, ...] = ()  # targets that the last activation cannot have
    divided_by: tuple[Birth, ...] = ()  # of the inf of which a division makes 0
    step: Step = Step()  # of the optimiser


def known_of(
    probe: Probe,
    probed: Probed,
    args: tuple,
    kwargs: dict,
    step: Step = Step(),
) -> Known:
    """What is known of a call of a probed loss.

    Args:
      probe: of the loss.
      probed: what the call returned.
      args: of the call.
      kwargs: of the call.
      step: of an optimiser, if there is one.
    """
    plan = probe.plan(args, kwargs)
    names = plan.arguments.names(probe.loss)
    gradient = np.asarray(probed.trace.params.gradient)
    results = np.array([np.sum(np.asarray(probed.value)), *gradient])
    small = negligible(probed.trace.single())
    params_are_finite = np.isfinite(np.asarray(probed.trace.params.weight)).all()
    is_broken = params_are_finite and not np.isfinite(results).all()
    return Known(
        births=tried(births.reaching, plan, names) if is_broken else (),
        arguments=tuple(_arguments(plan, names)),
        leaves=tuple(_leaves(plan, probed.grads, step.updates)),
        softmax_twice=twice.softmax_of_probabilities(plan.program),
        skips=skips.scaled(plan.program),
        factors=skips.small_factors(plan.program),
        no_input=tried(inputs.empty, plan) if (gradient == 0).any() else (),
        silent=tried(silent.silent, plan, jax.tree.leaves(probed.grads)),
        linear=tried(linear.pairs, plan),
        unreached=tried(targets.unreached, plan, names),
        divided_by=tried(births.divided_by, plan)
        if _has_zeros(probed) or not gradient.any()
        else (),
        cancelled=tried(cancelling.cancelled, plan) if small.any() else (),
        step=step,
    )


def tried(look: Callable[..., tuple], *args: Any) -> tuple:
    """What a look into a program finds; nothing where the program cannot be run again.

    What only explains a finding must never fail a diagnosis: the program holds what a library put
    there, of which not everything can be run operation by operation.
    """
    try:
        with jax.debug_nans(False):
            return look(*args)
    except Exception:
        return ()


def negligible(trace: Trace) -> np.ndarray:
    """Which gradients are so small, beside the largest or the loss, that they may be rounding?"""
    gradients, weights = (np.asarray(x) for x in (trace.params.gradient, trace.params.weight))
    if not gradients.size or not np.isfinite(gradients).all():
        return np.zeros(gradients.shape, bool)
    of_loss = gradients * weights <= INSENSITIVE * abs(float(trace.value))
    return (gradients <= SMALL * gradients.max()) | of_loss


def _has_zeros(probed: Probed) -> bool:
    """Is there a row of float16 that holds zeros alone? Numbers over 256 have squares beyond it."""
    rms = np.asarray(probed.trace.single().forward.rms)
    half = np.array([site.dtype == "float16" for site in probed.trace.sites], bool)
    return bool(((rms == 0) & half).any())


def _arguments(plan: Plan, names: list[str]) -> Any:
    for name, leaf in zip(names, plan.arguments.others, strict=True):
        if isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating):
            x = np.asarray(leaf, np.float64)
            if x.size:
                yield Argument(name, float(np.sqrt(np.mean(x**2))), float(np.max(np.abs(x))))


def _leaves(plan: Plan, grads: PyTree, updates: PyTree) -> list[Leaf]:
    gradients = jax.tree.leaves(grads)
    steps = [None] * len(gradients) if updates is None else jax.tree.leaves(updates)
    leaves = zip(plan.params, gradients, steps, strict=True)
    return [_leaf(w, g, u) for w, g, u in leaves]


def _leaf(weight: Any, gradient: Any, update: Any) -> Leaf:
    numbers = np.asarray(weight)
    result = Leaf(twins(numbers, np.asarray(gradient)), peak=_peak(numbers))
    if update is None:
        return result
    swallowed, broken = _rounded(weight, update)
    return result._replace(swallowed=float(swallowed), broken=bool(broken))


def _peak(numbers: np.ndarray) -> float:
    sizes = np.abs(numbers).astype(np.float64)
    rms = float(np.sqrt(np.mean(sizes**2))) if sizes.size else 0.0
    return float(sizes.max()) / rms if 0 < rms < np.inf else np.nan


def twins(weight: np.ndarray, gradient: np.ndarray) -> float:
    """The share of units that have another of the same weights and gradients, 0 to 1.

    Units are slices along the first or the last axis, whichever has more such; of weights that are
    all 0, or have no gradient, there are none.

    >>> w = np.array([[1.0, 1.0, 2.0], [3.0, 3.0, 4.0]])
    >>> twins(w, w)
    0.6666666666666666
    """
    if weight.ndim < 2 or not weight.any() or not gradient.any():
        return 0.0
    return max(_twins(np.moveaxis(weight, a, 0), np.moveaxis(gradient, a, 0)) for a in (0, -1))


def _twins(weight: np.ndarray, gradient: np.ndarray) -> float:
    units = len(weight)
    weight, gradient = (np.asarray(x.reshape(units, -1), np.float64) for x in (weight, gradient))
    if units < 2 or not np.isfinite(gradient).all():
        return 0.0
    # Equal rows have equal sums of equal products, and other rows hardly ever.
    marks = np.random.default_rng(0).normal(size=weight.shape[1])
    mark, slope = (weight * marks).sum(1), (gradient * marks).sum(1)
    _, group, count = np.unique(mark, return_inverse=True, return_counts=True)
    near = TWIN * np.abs(gradient * marks).sum(1).max()
    alike = 0
    for number in np.flatnonzero(count > 1):
        slopes = slope[group == number]
        if np.ptp(slopes) <= near and np.abs(gradient[group == number]).max() > 0:
            alike += len(slopes)
    return alike / units


@jax.jit
def _rounded(weight, update):
    moves = (update != 0) & (weight != 0)
    stays = moves & (weight + update.astype(weight.dtype) == weight)
    return jnp.sum(stays) / jnp.maximum(jnp.sum(moves), 1), ~jnp.all(jnp.isfinite(update))
