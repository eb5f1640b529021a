"""Where a softmax is taken of what is a softmax, or a sigmoid, already."""

from collections.abc import Iterator
from typing import NamedTuple

from vanishing.probing import jaxpr, reach, sites
from vanishing.probing.dependence import VIEWS
from vanishing.probing.jaxpr import Frame, Literal, Node, Program, ValueId
from vanishing.probing.reach import RESHAPES

# What a softmax, or the logarithm of one, does to its input before it takes the exponential.
_BEFORE = VIEWS - {"gather"} | {
    "abs",
    "max",
    "neg",
    "reduce_max",
    "select_n",
    "stop_gradient",
    "sub",
}
_AFTER = RESHAPES | {"abs", "reduce_sum", "sign"}
_OF_LOGITS = ("softmax", "logsumexp", "logaddexp", "log_sigmoid", "softplus")  # functions of JAX
_STEPS = 12  # operations between the two


class Twice(NamedTuple):
    """A softmax or sigmoid whose result another exponential takes in."""

    op: str
    at: str  # "file:line" of the user's own code, or ""
    again_at: str  # that of the other


def softmax_of_probabilities(program: Program) -> tuple[Twice, ...]:
    """Each softmax or sigmoid whose result another exponential takes in, as if it were logits.

    Args:
      program: of a loss; each frame is looked at by itself.
    """
    places = (place for frame in jaxpr.frames(program.frame) for place in _in_frame(frame))
    return tuple(dict.fromkeys(places))


def _in_frame(frame: Frame) -> Iterator[Twice]:
    users, makers = reach.users(frame), reach.makers(frame)
    for node in frame.nodes:
        name = _probabilities(node, makers)
        again = _met_exponential(node.outputs[0], users) if name else None
        if again:
            yield Twice(name, *(sites.line_of(each.seen_from) for each in (node, again)))


def _probabilities(node: Node, makers: dict[ValueId, Node]) -> str:
    """ "softmax" or "sigmoid" if an operation is the last of one, else ""."""
    if "softmax" in node.primitive:
        return "" if "log" in node.primitive else "softmax"
    if node.primitive == "logistic":
        return "sigmoid"
    if node.primitive != "div":
        return ""
    top, total = (makers.get(a) if not isinstance(a, Literal) else None for a in node.inputs)
    while total and total.primitive in RESHAPES and not isinstance(total.inputs[0], Literal):
        total = makers.get(total.inputs[0])
    if not top or not total or top.primitive != "exp" or total.primitive != "reduce_sum":
        return ""
    return "softmax" if total.inputs[0] in top.outputs else ""


def _met_exponential(value: ValueId, users: dict[ValueId, list[Node]]) -> Node | None:
    """The softmax, or the logarithm of one, that a value goes into unchanged but for a shift."""
    todo, seen = [(value, 0)], {value}
    while todo:
        at, steps = todo.pop()
        for node in users.get(at, []):
            if any(name in node.primitive for name in _OF_LOGITS):
                return node
            if node.primitive == "exp":
                return node if _is_normalised(node, users) else None
            if node.primitive in _BEFORE and steps < _STEPS:
                new = set(node.outputs) - seen
                seen |= new
                todo += [(output, steps + 1) for output in new]
    return None


def _is_normalised(node: Node, users: dict[ValueId, list[Node]]) -> bool:
    """Does the sum of an exponential end in a logarithm, or divide, as in a softmax?"""
    todo = [(value, "exp") for value in node.outputs]
    for _ in range(_STEPS):
        after = [(user, value, was) for value, was in todo for user in users.get(value, [])]
        if any(_ends(user, value, was) for user, value, was in after):
            return True
        todo = [
            (output, "sum" if user.primitive == "reduce_sum" else was)
            for user, _, was in after
            if user.primitive in _AFTER
            for output in user.outputs
        ]
    return False


def _ends(user: Node, value: ValueId, was: str) -> bool:
    """Is it the logarithm of a sum of exponentials, or a division by one?"""
    if user.primitive == "log1p":
        return True
    is_divisor = user.primitive == "div" and value == user.inputs[1]
    return was == "sum" and (is_divisor or user.primitive == "log")
