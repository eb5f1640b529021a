"""Skip connections that are multiplied by a small number of the program."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing import jaxpr, reach, sites
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId
from vanishing.probing.reach import RESHAPES


class ScaledSkip(NamedTuple):
    """A sum of a branch and of the stream that the branch is computed from, times a number."""

    factor: float
    at: str  # "file:line"


def scaled(program: Program) -> tuple[ScaledSkip, ...]:
    """The skip connections of a program that a number of it multiplies, each line once.

    Args:
      program: of a loss; each frame is looked at by itself.
    """
    found = [*_in_frame(program.frame, ())]
    for _, node in jaxpr.walk(program.frame):
        first = node.loop.consts if node.loop else 0  # what is the same at each turn is no stream
        for frame in node.frames:
            found += _in_frame(frame, frame.inputs[first:])
    return tuple(dict.fromkeys(found))


def small_factors(program: Program) -> tuple[ScaledSkip, ...]:
    """The products of a value and a number of the program under a hundredth, each line once."""
    found = (
        ScaledSkip(scale[1], sites.line_of(node.seen_from))
        for _, node in jaxpr.walk(program.frame)
        if (scale := _scaled(node)) and 0 < abs(scale[1]) < SMALL
    )
    return tuple(dict.fromkeys(found))


SMALL = 0.01
"""Factor under which a gradient is lost by a single product."""


def _in_frame(frame: Frame, carried: Sequence[ValueId]) -> Iterator[ScaledSkip]:
    """The skip connections in a frame, of what is made there or was in a turn before.

    What is added to more than one branch, as the first signal to each block of a graph network, is
    no stream that goes from block to block.
    """
    makers = reach.makers(frame)
    skips: dict[ValueId, list[ScaledSkip]] = {}
    for node in frame.nodes:
        if node.primitive != "add" or any(isinstance(a, Literal) for a in node.inputs):
            continue
        for stream, branch in (node.inputs, node.inputs[::-1]):
            scale = _scaled(makers.get(stream)) if not isinstance(stream, Literal) else None
            if scale is None or not (scale[0] in makers or scale[0] in carried):
                continue
            if _follows(branch, scale[0], makers, around=stream):
                skip = ScaledSkip(scale[1], sites.line_of(node.seen_from))
                skips.setdefault(scale[0], []).append(skip)
    yield from (found[0] for found in skips.values() if len(found) == 1)


def _scaled(node: Node | None) -> tuple[ValueId, float] | None:
    """The value that an operation multiplies by a number, and the number."""
    if node is None or node.primitive != "mul":
        return None
    numbers = [a.value for a in node.inputs if isinstance(a, Literal)]
    values = [a for a in node.inputs if not isinstance(a, Literal)]
    if len(numbers) != 1 or len(values) != 1 or np.ndim(numbers[0]):
        return None
    return values[0], float(numbers[0])


def _follows(value: Atom, earlier: ValueId, makers: dict[ValueId, Node], around: Atom) -> bool:
    """Is a value computed from an earlier one, not through another, by more than a reshape?"""
    todo, seen = [(value, False)], {value, around}
    while todo:
        at, changed = todo.pop()
        node = None if isinstance(at, Literal) else makers.get(at)
        if node is None:
            continue
        changed |= node.primitive not in RESHAPES
        if changed and earlier in node.inputs:
            return True
        new = {a for a in node.inputs if not isinstance(a, Literal)} - seen
        seen |= new
        todo += [(a, changed) for a in new]
    return False
