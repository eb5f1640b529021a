"""Dense layers that follow one another with nothing nonlinear between: together they are one."""

from collections.abc import Iterator

from vanishing.probing import reach
from vanishing.probing.jaxpr import Atom, Literal, Node, ValueId
from vanishing.probing.plan import Plan
from vanishing.probing.reach import RESHAPES


def pairs(plan: Plan) -> tuple[tuple[int, int], ...]:
    """The numbers of the parameter leaves of two kernels that could be a single one.

    The second multiplies what the first returns, and nothing else takes that in; at most a bias is
    added, or the shape changed, between. A bottleneck, narrower than what comes in and goes out, is
    meant to be two, and left out; so is what is inside of loops.

    Args:
      plan: of a loss.
    """
    frame = plan.program.frame
    users, makers = reach.users(frame), reach.makers(frame)
    leaves = {value: i for i, value in enumerate(frame.inputs[: len(plan.params)])}

    def leaf(atom: Atom) -> int | None:
        return leaves.get(origin) if (origin := reach.origin(atom, makers)) is not None else None

    def kernel(node: Node) -> tuple[int, Atom] | None:
        """The leaf that a product multiplies a signal with, and the signal."""
        if node.primitive != "dot_general":
            return None
        numbers = [leaf(atom) for atom in node.inputs]
        if (numbers[0] is None) == (numbers[1] is None):
            return None
        own = numbers[0] if numbers[0] is not None else numbers[1]
        return (own, node.inputs[numbers[0] is not None]) if own is not None else None

    def found() -> Iterator[tuple[int, int]]:
        for node in frame.nodes:
            if not (first := kernel(node)):
                continue
            value = node.outputs[0]
            while len(after := users.get(value, [])) == 1 and _shifts(after[0], value, leaf):
                value = after[0].outputs[0]
            second = kernel(after[0]) if len(after) == 1 else None
            if second and second[1] == value and second[0] != first[0]:
                width = [plan.program.specs[v].shape[-1] for v in
                         (first[1], value, after[0].outputs[0])
                         if not isinstance(v, Literal)]  # fmt: skip
                if len(width) == 3 and width[1] >= min(width[0], width[2]):
                    yield first[0], second[0]

    return tuple(dict.fromkeys(found()))


def _shifts(node: Node, value: ValueId, leaf) -> bool:
    """Does an operation change the shape of a value, or add a parameter to it?"""
    if node.primitive in RESHAPES:
        return True
    others = [atom for atom in node.inputs if atom != value]
    return node.primitive == "add" and len(others) == 1 and leaf(others[0]) is not None
