"""Parameters that only meet zeros: what they are multiplied with is 0 for these data."""

import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing import reach, replay
from vanishing.probing.jaxpr import Literal, ValueId
from vanishing.probing.plan import Plan
from vanishing.probing.reach import RESHAPES

_PRODUCTS = ("dot_general", "conv_general_dilated", "mul")


def empty(plan: Plan) -> tuple[int, ...]:
    """The numbers of the parameter leaves that are multiplied with computed zeros alone.

    Zeros that the loss was given, or makes of nothing, such as a first state, do not count, nor do
    those of parameters that are 0: of the other factor an operation must have made zeros of data.
    Leaves that are used inside of loops are left out.

    Args:
      plan: of a loss, made of arguments with numbers.
    """
    frame = plan.program.frame
    users, makers = reach.users(frame), reach.makers(frame)
    given = set(frame.inputs[len(plan.params) :])
    of_data = reach.downstream(frame, given)
    leaves = zip(frame.inputs, plan.params, strict=False)
    of_zeros = reach.downstream(frame, {v for v, x in leaves if not np.any(np.asarray(x))})
    factors: dict[int, set[ValueId]] = {}
    for number, value in enumerate(frame.inputs[: len(plan.params)]):
        views, todo, others, known = {value}, [value], set(), True
        while todo:
            for node in users.get(todo.pop(), []):
                if node.primitive in RESHAPES:
                    todo += node.outputs
                    views |= set(node.outputs)
                elif node.primitive in _PRODUCTS and not node.frames:
                    others |= {a for a in node.inputs if not isinstance(a, Literal)} - views
                else:
                    known = False
        made = {other for other in others if reach.origin(other, makers) not in given}
        if known and others and made == others and others <= of_data - of_zeros:
            factors[number] = others
    wanted = sorted({other for others in factors.values() for other in others})
    if not wanted:
        return ()

    @jax.jit
    def are_zero(params, others):
        values = replay.evaluate(frame, [*params, *others], wanted)
        return [jnp.all(value == 0) for value in values]

    flags = map(bool, np.asarray(are_zero(plan.params, plan.others)))
    zero = dict(zip(wanted, flags, strict=True))
    return tuple(n for n, others in factors.items() if all(zero[other] for other in others))
