"""Parameters that no step moves: their gradient is exactly 0, and stays so as the others move."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing import reach, replay, sites
from vanishing.probing.jaxpr import Node
from vanishing.probing.plan import Plan
from vanishing.probing.reach import RESHAPES

_MOVED = 0.01  # of a parameter that learns, as by a few steps
_PUSHED = 0.1  # of one that does not, to see whether the loss depends on it
_ROUNDS = 5  # steps in which a zero may wake the next: a gate, then what it lets through


class Silent(NamedTuple):
    """A parameter leaf without a gradient."""

    leaf: int  # its number
    matters: bool  # does the loss change where it is moved?
    op: str = ""  # the operation that uses it first
    at: str = ""  # its "file:line"


def silent(plan: Plan, gradients: Sequence[Any]) -> tuple[Silent, ...]:
    """The parameter leaves whose gradient is exactly 0, and remains so as the others are moved.

    What waits for a parameter that is 0 and learns, as behind a last layer of zeros, is not among
    them.

    Args:
      plan: of a loss, made of arguments with numbers.
      gradients: of the parameter leaves.
    """
    still = {i for i, gradient in enumerate(gradients) if not np.any(np.asarray(gradient))}
    if not still:
        return ()
    frame = plan.program.frame

    def loss(params):
        return replay.evaluate(frame, [*params, *plan.others])[0]

    @jax.jit
    def run(params):
        value, grads = jax.value_and_grad(loss)(params)
        return value, [jnp.any(grad != 0) for grad in grads]

    params, moving = list(plan.params), set(range(len(plan.params))) - still
    for _ in range(_ROUNDS):
        for i in moving:
            params[i] = _moved(plan.params[i], _MOVED, i)
        _, has_gradient = run(params)
        moving = {i for i in still if has_gradient[i]}
        still -= moving
        if not moving or not still:
            break
    value = run(plan.params)[0] if still else None
    return tuple(_of(plan, i, run, value) for i in sorted(still))


def _of(plan: Plan, i: int, run, value) -> Silent:
    pushed = [_moved(x, _PUSHED, i) if i == j else x for j, x in enumerate(plan.params)]
    matters = bool(run(pushed)[0] != value)
    node = _first_use(plan, i)
    if node is None:
        return Silent(i, matters)
    return Silent(i, matters, node.primitive, sites.line_of(node.seen_from))


def _moved(leaf: Any, share: float, seed: int) -> jax.Array:
    """A leaf with noise, of a share of each number; of what is all 0, of that size."""
    leaf = jnp.asarray(leaf)
    noise = jax.random.normal(jax.random.key(seed), leaf.shape).astype(leaf.dtype)
    return leaf + share * noise * jnp.where(jnp.any(leaf != 0), leaf, jnp.ones_like(leaf))


def _first_use(plan: Plan, number: int) -> Node | None:
    """The first operation on a leaf that is more than a change of its shape or dtype."""
    frame = plan.program.frame
    users, todo = reach.users(frame), [frame.inputs[number]]
    while todo:
        for node in users.get(todo.pop(), []):
            if node.primitive not in RESHAPES:
                return node
            todo += node.outputs
    return None
