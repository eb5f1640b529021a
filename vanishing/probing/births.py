"""Births: which operation makes the first inf or nan that reaches the loss or a gradient.

A program is run again operation by operation, and each value that is not finite remembers where
that began. So what a select throws away, or a slope of 0 absorbs, is no birth.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vanishing.probing import cancelling, jaxpr, reach, replay, sites, suspects
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, ValueId
from vanishing.probing.plan import Plan


class Birth(NamedTuple):
    """An operation that makes inf or nan of finite numbers, or nan of inf."""

    ops: tuple[str, ...]  # its primitive; of a slope, those of the operations that it may belong to
    at: str  # "file:line" of the user's own code, or ""
    steps: tuple[int, ...] = ()  # of the loops around it, outermost first
    backward: bool = False  # is it the slope that is not finite, and not the value?
    untaken: bool = False  # is it in the branch of a `where` that is not taken?
    of: str = ""  # what was not finite before: "constant" or an argument; "" where nothing was
    largest: float = 0.0  # magnitude of what it was given that is finite
    dtype: str = ""
    spot: tuple[str, int, int] | None = None  # file, line and column


def reaching(plan: Plan, names: Sequence[str] = ()) -> tuple[Birth, ...]:
    """The births that reach the loss, or where that is finite the gradient of a parameter.

    Args:
      plan: of the loss, made of arguments with numbers.
      names: of the leaves of its arguments that hold no parameters.

    Returns:
      Each birth once, in the order of the program. Those of a slope name the operation that has
      it, as far as the program tells.
    """
    params, others = plan.params, plan.others
    traced = [name for i, name in enumerate(names) if i not in plan.static]
    labels = ["a parameter"] * len(params) + traced
    labels += ["an array that the loss closes over"] * (len(params) + len(others) - len(labels))
    made = [_given(value, label) for value, label in zip([*params, *others], labels, strict=True)]
    _, births = _frame(plan.program.frame, [*params, *others], made)
    if births[0]:
        return tuple(_roots(births[:1]))

    backward = cancelling.backward(plan)
    _, births = _frame(backward.frame, [*params, *others], made)
    slopes = _Slopes(plan)
    return tuple(dict.fromkeys(map(slopes.named, _roots(births))))


def divided_by(plan: Plan) -> tuple[Birth, ...]:
    """The births of inf that a division, or the inverse of a root, turns into 0.

    So nothing that is not finite is left of a number that was too large for its dtype.

    Args:
      plan: of the loss, made of arguments with numbers.
    """
    args, healed = [*plan.params, *plan.others], []
    _frame(plan.program.frame, args, [None] * len(args), healed=healed)
    return tuple(_roots(healed))


class _Made(NamedTuple):
    """A birth in a program, and what was not finite before it."""

    node: Node | None  # None of what comes in
    op: str
    steps: tuple[int, ...]
    of: "_Made | None"
    label: str  # of what comes in
    largest: float = 0.0


def _given(value: Any, label: str) -> _Made | None:
    """What an input that is not finite is: a mask, where it holds -inf alone, else its name."""
    if not _broken(value):
        return None
    x = np.asarray(value)
    is_mask = bool(np.all(np.isfinite(x) | np.isneginf(x))) if np.isrealobj(x) else False
    return _CONSTANT if is_mask else _Made(None, "", (), None, label)


def _frame(
    frame: Frame,
    args: Sequence[Any],
    made: Sequence[_Made | None],
    steps: tuple[int, ...] = (),
    healed: list[_Made] | None = None,
) -> tuple[list[Any], list[_Made | None]]:
    """The outputs of a frame on these arguments, and where what is broken in them was made.

    What was broken, and is 0 after a division, is added to `healed`, inside of loops apart.
    """
    values = dict(zip(frame.inputs, args, strict=True)) | dict(frame.constants)
    births = {v: m for v, m in zip(frame.inputs, made, strict=True) if m}
    births |= {v: _CONSTANT for v, x in frame.constants if _broken(x)}

    def value(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Literal) else values[atom]

    def birth(atom: Atom) -> _Made | None:
        if isinstance(atom, Literal):
            return _CONSTANT if _broken(atom.value) else None
        return births.get(atom)

    for node in frame.nodes:
        inputs, before = [value(a) for a in node.inputs], [birth(a) for a in node.inputs]
        outputs = jaxpr.run(node, inputs)
        values.update(zip(node.outputs, outputs, strict=True))
        if any(map(_broken, outputs)):
            new = _births(node, inputs, before, outputs, steps, healed)
            births |= {v: m for v, m in zip(node.outputs, new, strict=True) if m}
        elif healed is not None and node.primitive in _INVERSES and before[-1]:
            healed.append(before[-1])
    return [value(a) for a in frame.outputs], [birth(a) for a in frame.outputs]


def _births(
    node: Node,
    inputs: Sequence[Any],
    before: Sequence[_Made | None],
    outputs: Sequence[Any],
    steps: tuple[int, ...],
    healed: list[_Made] | None,
) -> list[_Made | None]:
    """Where the outputs of a node that are not finite were made."""
    if node.loop:
        inner = _scan(node, inputs, before, steps)
    elif node.frames:
        frame = node.frames[int(inputs[0]) if node.primitive == "cond" else 0]
        offset = len(inputs) - len(frame.inputs)
        _, inner = _frame(frame, inputs[offset:], before[offset:], steps, healed)
    else:
        inner = [_own(node, inputs, before, output, steps) for output in outputs]
    return [m if _broken(x) else None for m, x in zip(inner, outputs, strict=True)]


def _own(node, inputs, before, output, steps) -> _Made | None:
    # Of several, one that is made here is to blame before the -inf of a mask beside it.
    known = sorted(filter(None, before), key=lambda m: m.node is None and m is _CONSTANT)
    earlier = known[0] if known else None
    if earlier and not (_has_nan(output) and not any(map(_has_nan, inputs))):
        return earlier
    largest = max(map(_largest, inputs), default=0.0)
    return _Made(node, _op(node, inputs, output), steps, earlier, "", largest)


def _scan(node: Node, inputs, before, steps) -> list[_Made | None]:
    """The same of a loop: its steps are run as they are until one breaks."""
    loop, (frame,) = node.loop, node.frames
    assert loop is not None
    step = jax.jit(lambda *args: replay.evaluate(frame, args))
    first = loop.consts + loop.carry
    consts, carry, xs = inputs[: loop.consts], inputs[loop.consts : first], inputs[first:]
    known, state, rows = before[: loop.consts], before[loop.consts : first], before[first:]
    ys: list[_Made | None] = [None] * (len(node.outputs) - loop.carry)
    order = range(loop.length)
    for t in reversed(order) if loop.reverse else order:
        args = [*consts, *carry, *(x[t] for x in xs)]
        outputs = step(*args)
        made: list[_Made | None] = [None] * len(outputs)
        if any(map(_broken, outputs)):
            row = [m if _broken(x[t]) else None for m, x in zip(rows, xs, strict=True)]
            _, made = _frame(frame, args, [*known, *state, *row], (*steps, t))
            made = [m if _broken(x) else None for m, x in zip(made, outputs, strict=True)]
        carry, state = outputs[: loop.carry], made[: loop.carry]
        ys = [old or new for old, new in zip(ys, made[loop.carry :], strict=True)]
        if any(state):
            break  # all that follows is broken by this
    follows = next((m for m in state if m), None)
    return [m or follows for m in (*state, *ys)]


_INVERSES = ("div", "rsqrt")  # of inf they are 0; the divisor comes last

_CONSTANT = _Made(None, "", (), None, "constant")


def _roots(made: Sequence[_Made | None]) -> Iterator[Birth]:
    """The first births of what is broken, each once."""
    for birth in dict.fromkeys(filter(None, made)):
        root = birth
        while root.of is not None and root.of.node is not None:
            root = root.of
        yield _birth(root)


def _birth(made: _Made) -> Birth:
    if made.node is None:
        return Birth(ops=(), at="", of=made.label)
    return Birth(
        ops=(made.op,),
        at=sites.line_of(made.node.seen_from),
        steps=made.steps,
        of=made.of.label if made.of else "",
        largest=made.largest,
        dtype=str(made.node.equation.outvars[0].aval.dtype),
        spot=made.node.spot,
    )


def _op(node: Node, inputs: Sequence[Any], output: Any) -> str:
    """The name of an operation; "power" or "quotient" where that is large, and not of or by 0."""
    if node.primitive == "convert_element_type":
        return "cast"
    if node.primitive == "integer_pow":
        return "power" if node.equation.params["y"] > 0 else "integer_pow"
    if node.primitive not in ("pow", "div") or _has_nan(output):
        return node.primitive
    base = np.asarray(inputs[0 if node.primitive == "pow" else 1])
    if node.primitive == "pow":
        return "power" if np.all(base != 0) and _largest(base) > 1 else "pow"
    is_large = _largest(inputs[0]) > math.sqrt(float(jnp.finfo(output.dtype).max))
    return "quotient" if np.all(base != 0) and is_large else "div"


class _Slopes:
    """The operations of a loss, whose slopes a program of its gradient computes."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.at: dict[Any, list[tuple[Frame, Node]]] = {}
        for frame, node in jaxpr.walk(plan.program.frame):
            if node.primitive in suspects.SINGULAR:
                self.at.setdefault(node.spot, []).append((frame, node))

    def named(self, birth: Birth) -> Birth:
        """A birth on the way back, with the operations of the loss whose slope it may be."""
        found = self.at.get(birth.spot, []) if birth.spot else []
        if not found:
            return birth._replace(backward=True)
        ops = tuple(dict.fromkeys(node.primitive for _, node in found))
        untaken = all(self.is_untaken(frame, node) for frame, node in found)
        return birth._replace(ops=ops, backward=True, untaken=untaken)

    def is_untaken(self, frame: Frame, node: Node) -> bool:
        """Does a `where` leave an operation out wherever its slope is not finite?"""
        value, users = node.outputs[0], reach.users(frame)
        while True:
            after = users.get(value, [])
            if len(after) != 1:
                return False
            if after[0].primitive == "select_n":
                return self.leaves_out(frame, node, value, after[0])
            if len(after[0].outputs) != 1 or after[0].frames:
                return False
            value = after[0].outputs[0]

    def leaves_out(self, frame: Frame, node: Node, value: ValueId, select: Node) -> bool:
        if frame is not self.plan.program.frame or select.inputs.index(value) == 0:
            return False
        wanted = (*node.inputs, select.inputs[0])
        *inputs, which = replay.evaluate(frame, [*self.plan.params, *self.plan.others], wanted)
        numbers = [i for i, value in enumerate(inputs) if _is_number(value)]

        def run(*values):
            return jaxpr.run(node, _with(inputs, numbers, values))[0]

        at = [jnp.asarray(inputs[i]) for i in numbers]
        slope = jax.jvp(run, at, [jnp.ones_like(value) for value in at])[1]
        if np.shape(slope) != np.shape(which):
            return False
        taken = np.asarray(which).astype(int) == select.inputs.index(value) - 1
        return not (taken & ~np.isfinite(np.asarray(slope))).any()


def _with(inputs: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    result = list(inputs)
    for place, value in zip(places, values, strict=True):
        result[place] = value
    return result


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, float | complex) or (
        dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and not jaxpr.is_reference(value)
    )


def _broken(value: Any) -> bool:
    return _is_number(value) and not bool(np.all(np.isfinite(np.asarray(value))))


def _has_nan(value: Any) -> bool:
    return _is_number(value) and bool(np.any(np.isnan(np.asarray(value))))


def _largest(value: Any) -> float:
    if not _is_number(value):
        return 0.0
    sizes = np.abs(np.asarray(value, np.float64 if np.isrealobj(value) else np.complex128))
    return float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
