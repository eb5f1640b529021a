"""Targets that the last activation cannot reach: negative ones of a ReLU, over 1 of a sigmoid."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vanishing.probing import reach, sites
from vanishing.probing.jaxpr import Node
from vanishing.probing.plan import Plan

RANGES = {"logistic": (0.0, 1.0), "relu": (0.0, math.inf), "tanh": (-1.0, 1.0)}
"""The least and the largest value of an operation."""


class Unreached(NamedTuple):
    """An activation whose values are compared with targets of which it cannot have some."""

    op: str
    at: str  # "file:line" of the user's own code, or ""
    target: str  # name of the argument
    share: float  # of its elements that are out of range, 0 to 1
    low: float  # of the activation
    high: float
    least: float  # of the target
    largest: float


def unreached(plan: Plan, names: Sequence[str] = ()) -> tuple[Unreached, ...]:
    """The targets, among the arguments of a loss, that activations are subtracted from.

    Outside of loops, and where nothing but a change of shape or dtype is between.

    Args:
      plan: of the loss, made of arguments with numbers.
      names: of the leaves of its arguments that hold no parameters.
    """
    frame = plan.program.frame
    makers = reach.makers(frame)
    learnt = reach.downstream(frame, frame.inputs[: len(plan.params)])
    traced = [name for i, name in enumerate(names) if i not in plan.static]
    given = dict(zip(frame.inputs[len(plan.params) :], zip(traced, plan.others, strict=False),
                     strict=False))  # fmt: skip
    found = []
    for node in frame.nodes:
        is_difference = node.primitive == "sub"
        ends = [reach.origin(atom, makers) for atom in node.inputs] if is_difference else []
        for output, target in zip(ends, reversed(ends), strict=True):
            made = makers.get(output) if output is not None and output in learnt else None
            bounds = RANGES.get(made.primitive) if made else None
            if made and bounds and target is not None and target in given:
                found += _compared(made, bounds, *given[target])
    return tuple(found)


def _compared(made: Node, bounds: tuple[float, float], name: str, target) -> list[Unreached]:
    if not jnp.issubdtype(jnp.result_type(target), jnp.floating) or not np.size(target):
        return []
    numbers, (low, high) = np.asarray(target, np.float64), bounds
    share = float(np.mean((numbers < low) | (numbers > high)))
    ends = (float(numbers.min()), float(numbers.max()))
    at = sites.line_of(made.seen_from)
    return [Unreached(made.primitive, at, name, share, low, high, *ends)] if share > 0 else []
