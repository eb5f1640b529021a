"""Where a softmax is taken of what is a softmax, or a sigmoid, already."""

from collections.abc import Iterator

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


def softmax_of_probabilities(program: Program) -> tuple[str, ...]:
    """ "op at file:line" of each softmax or sigmoid whose result another exponential takes in.

    Args:
      program: of a loss; each frame is looked at by itself.
    """
    places = (place for frame in jaxpr.frames(program.frame) for place in _in_frame(frame))
    return tuple(dict.fromkeys(places))


def _in_frame(frame: Frame) -> Iterator[str]:
    users, makers = reach.users(frame), reach.makers(frame)
    for node in frame.nodes:
        name = _probabilities(node, makers)
        if name and _meets_exponential(node.outputs[0], users):
            line = sites.line_of(node.seen_from)
            yield f"{name} at {line}" if line else name


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


def _meets_exponential(value: ValueId, users: dict[ValueId, list[Node]]) -> bool:
    """Does a value go, unchanged but for a shift, into a softmax or the logarithm of one?"""
    todo, seen = [(value, 0)], {value}
    while todo:
        at, steps = todo.pop()
        for node in users.get(at, []):
            if any(name in node.primitive for name in _OF_LOGITS):
                return True
            if node.primitive == "exp":
                return _is_normalised(node, users)
            if node.primitive in _BEFORE and steps < _STEPS:
                new = set(node.outputs) - seen
                seen |= new
                todo += [(output, steps + 1) for output in new]
    return False


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
