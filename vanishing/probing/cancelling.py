"""Gradients that cancel: sums on the way back of which nothing but rounding is left."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing import jaxpr, reach, replay, sites
from vanishing.probing.jaxpr import Literal, Node, Program, ValueId
from vanishing.probing.plan import Plan

_ROUNDINGS = 4  # of the dtype: what is smaller beside the largest term is rounding
_FEWEST = 4  # elements of which rounding is left: fewer may be near 0 by chance


class Cancelled(NamedTuple):
    """A sum of two gradients that cancel in every element."""

    at: str  # "file:line" of the operation that the gradients come back from
    leaves: tuple[int, ...]  # numbers of the parameter leaves whose gradient is computed from it


def backward(plan: Plan) -> Program:
    """The program of the gradient of a planned loss."""

    def loss(params, others):
        return replay.evaluate(plan.program.frame, [*params, *others])[0]

    return jaxpr.read(jax.grad(loss), plan.params, plan.others)[0]


def cancelled(plan: Plan) -> tuple[Cancelled, ...]:
    """The sums of gradients, outside of loops, that cancel in every element.

    Args:
      plan: of a loss, made of arguments with numbers.
    """
    program = backward(plan)
    frame = program.frame
    makers = reach.makers(frame)
    sums = [node for node in frame.nodes if _is_sum(node) and not _is_factor(node, makers)]
    if not sums:
        return ()

    @jax.jit
    def shares(params, others):
        """The largest magnitude of each sum over that of its terms."""
        wanted = [value for node in sums for value in (*node.outputs, *node.inputs)]
        values = iter(replay.evaluate(frame, [*params, *others], wanted))
        sizes = [[jnp.max(jnp.abs(next(values))) for _ in range(3)] for _ in sums]
        return [jnp.where(a + b > 0, total / jnp.maximum(a, b), 1.0) for total, a, b in sizes]

    limits = [_ROUNDINGS * float(jnp.finfo(program.specs[n.outputs[0]].dtype).eps) for n in sums]
    share = np.asarray(jax.device_get(shares(plan.params, plan.others)), float)
    found = [
        node
        for node, x, limit in zip(sums, share, limits, strict=True)
        if x == 0 or (x <= limit and _size(node) >= _FEWEST)
    ]
    return tuple(_of(node, program) for node in found)


def _is_sum(node: Node) -> bool:
    values = [atom for atom in node.inputs if not isinstance(atom, Literal)]
    return node.primitive == "add_any" and len(set(values)) == 2


def _is_factor(node: Node, makers: dict[ValueId, Node]) -> bool:
    """Is it x + x * y, which is x times 1 + y, as in the slope of tanh?"""
    makes = [None if isinstance(atom, Literal) else makers.get(atom) for atom in node.inputs]
    return any(
        maker is not None and maker.primitive == "mul" and other in maker.inputs
        for maker, other in zip(makes, reversed(node.inputs), strict=True)
    )


def _size(node: Node) -> int:
    return int(np.prod(node.equation.outvars[0].aval.shape))


def _of(node: Node, program: Program) -> Cancelled:
    reached = reach.downstream(program.frame, node.outputs)
    outputs = program.frame.outputs
    leaves = tuple(i for i, atom in enumerate(outputs) if atom in reached)
    return Cancelled(at=sites.line_of(node.seen_from), leaves=leaves)
