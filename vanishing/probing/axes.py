"""Axes: where in the inputs of an operation a part of its output stands.

A leaf may be cut, turned, thinned, chosen from or joined with others before a scan walks along it,
and its name in a row has to have the leaf's own index, not the scan's. So a part of a value is
followed back, operation by operation. The part is given by an index, or none, along each axis.
"""

import enum
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vanishing.probing.jaxpr import Atom, Node


class Extent(enum.Enum):
    """How much of an axis a part of a value has, where it is no single index."""

    WHOLE = enum.auto()
    UNKNOWN = enum.auto()


class At(NamedTuple):
    """The index of a part along an axis."""

    numbers: np.ndarray  # one for each place of the loops around, or one for all
    levels: frozenset[int] = frozenset()  # the loops that it depends on


Axis = At | Extent
Axes = tuple[Axis, ...]
EVERYWHERE = np.ones(1, bool)


class Source(NamedTuple):
    """The part of an input that a part of an output is computed from."""

    position: int  # of the input
    axes: Axes
    here: np.ndarray = EVERYWHERE  # at which places of the loops
    levels: frozenset[int] = frozenset()  # the loops that choose this input
    mixed: bool = False  # or another input: nothing says which


class Operation(NamedTuple):
    """An operation, and the part of one of its outputs."""

    node: Node
    output: int  # its position
    axes: Axes
    shapes: Sequence[tuple[int, ...]]  # of the inputs
    shape: tuple[int, ...]  # of the output
    number: Callable[[Atom], At | None]  # integers of the program, by place and index, if known

    @property
    def params(self) -> Mapping[str, Any]:
        """Of its equation."""
        return self.node.equation.params


def sources(operation: Operation, elementwise: bool) -> list[Source] | None:
    """The parts of its inputs that a part of an operation's output is computed from.

    Args:
      operation: of any kind.
      elementwise: does it compute each element from those at the same place?

    Returns:
      The parts, or None where nothing is known of them.
    """
    if before := _BEFORE.get(operation.node.primitive):
        return before(operation)
    name, shapes = operation.node.primitive, operation.shapes
    if name.startswith("reduce_") and "axes" in operation.params and len(shapes) == 1:
        return [Source(0, _with(operation.axes, operation.params["axes"], Extent.WHOLE))]
    if elementwise and all(shape in ((), operation.shape) for shape in shapes):
        return [Source(i, operation.axes if s else ()) for i, s in enumerate(shapes)]
    return None


def known(axis: Axis, compute: Callable[[np.ndarray], np.ndarray]) -> Axis:
    """The index that is computed from that of an axis."""
    return At(compute(axis.numbers), axis.levels) if isinstance(axis, At) else axis


def _with(axes: Axes, dimensions: Sequence[int], axis: Axis) -> Axes:
    """Axes with others put in so that they stand at some dimensions."""
    rest = iter(axes)
    count = len(axes) + len(dimensions)
    return tuple(axis if k in dimensions else next(rest) for k in range(count))


def _at(index: int) -> At:
    return At(np.array([index]))


def _select(op: Operation) -> list[Source]:
    cases = range(1, len(op.shapes))
    return [Source(i, op.axes, mixed=True) for i in cases]


def _transpose(op: Operation) -> list[Source]:
    back = np.argsort(op.params["permutation"])
    return [Source(0, tuple(op.axes[k] for k in back))]


def _broadcast(op: Operation) -> list[Source]:
    pairs = zip(op.shapes[0], op.params["broadcast_dimensions"], strict=True)
    own = (op.axes[d] if size == op.shape[d] else Extent.WHOLE for size, d in pairs)
    return [Source(0, tuple(own))]


def _squeeze(op: Operation) -> list[Source]:
    return [Source(0, _with(op.axes, op.params["dimensions"], _at(0)))]


def _reshape(op: Operation) -> list[Source] | None:
    if 0 in op.shape:
        return None
    before = [k for k, size in enumerate(op.shapes[0]) if size > 1]
    after = [k for k, size in enumerate(op.shape) if size > 1]
    axes: list[Axis] = [Extent.WHOLE] * len(op.shapes[0])
    while before:  # the fewest axes on both sides that hold as many numbers
        ins, outs = [before.pop(0)], [after.pop(0)]
        while (a := _size(op.shapes[0], ins)) != (b := _size(op.shape, outs)):
            (ins if a < b else outs).append((before if a < b else after).pop(0))
        for k, axis in zip(ins, _regrouped(op, ins, outs), strict=True):
            axes[k] = axis
    return [Source(0, tuple(axes))]


def _size(shape: Sequence[int], dimensions: Sequence[int]) -> int:
    return math.prod(shape[k] for k in dimensions)


def _regrouped(op: Operation, ins: list[int], outs: list[int]) -> Sequence[Axis]:
    """The axes that others, of as many numbers, were before a reshape."""
    own = [op.axes[k] for k in outs]
    if len(ins) == len(outs) == 1:
        return own
    if all(axis is Extent.WHOLE for axis in own):
        return [Extent.WHOLE] * len(ins)
    indices = [axis.numbers for axis in own if isinstance(axis, At)]
    if len(indices) < len(own):
        return [Extent.UNKNOWN] * len(ins)
    flat = np.ravel_multi_index(np.broadcast_arrays(*indices), [op.shape[k] for k in outs])
    levels = frozenset().union(*(axis.levels for axis in own if isinstance(axis, At)))
    return [At(i, levels) for i in np.unravel_index(flat, [op.shapes[0][k] for k in ins])]


def _rev(op: Operation) -> list[Source]:
    dimensions = op.params["dimensions"]
    own = (
        known(axis, lambda i, last=size - 1: last - i) if k in dimensions else axis
        for k, (axis, size) in enumerate(zip(op.axes, op.shape, strict=True))
    )
    return [Source(0, tuple(own))]


def _slice(op: Operation) -> list[Source]:
    starts, strides = op.params["start_indices"], op.params["strides"] or itertools.repeat(1)
    cuts = zip(op.axes, starts, strides, op.shape, op.shapes[0], strict=False)
    return [Source(0, tuple(_cut(a, _at(start), n, b, stride) for a, start, stride, n, b in cuts))]


def _cut(axis: Axis, start: At | None, size: int, before: int, stride: int = 1) -> Axis:
    """The axis before a slice of some size was cut out of it."""
    if size == before:
        return axis
    if axis is Extent.WHOLE and size == 1:
        axis = _at(0)
    if not isinstance(axis, At):
        return axis
    if start is None:
        return Extent.UNKNOWN
    index = start.numbers if stride > 1 else np.clip(start.numbers, 0, before - size)
    return At(index + stride * axis.numbers, start.levels | axis.levels)


def _split(op: Operation) -> list[Source]:
    cut, start = op.params["axis"], sum(op.params["sizes"][: op.output])
    own = (known(a, lambda i: start + i) if k == cut else a for k, a in enumerate(op.axes))
    if op.axes[cut] is Extent.WHOLE:
        own = (
            _cut(*a)
            for a in zip(op.axes, [_at(start)] * len(op.shape), op.shape, op.shapes[0], strict=True)
        )
    return [Source(0, tuple(own))]


def _joined(op: Operation, axis: Axis, sizes: Sequence[int]) -> list[tuple[Axis, Source]]:
    """For each input that stands behind others along an axis: its own axis, and where it stands."""
    result = []
    for position, start in enumerate(itertools.accumulate(sizes[:-1], initial=0)):
        source = Source(position, (), mixed=axis is Extent.UNKNOWN)
        own = axis
        if isinstance(axis, At):
            here = (axis.numbers >= start) & (axis.numbers < start + sizes[position])
            source = source._replace(here=here, levels=axis.levels)
            own = At(np.where(here, axis.numbers - start, 0), axis.levels)
        result.append((own, source))
    return result


def _concatenate(op: Operation) -> list[Source]:
    k = op.params["dimension"]
    joined = _joined(op, op.axes[k], [shape[k] for shape in op.shapes])
    return [s._replace(axes=(*op.axes[:k], own, *op.axes[k + 1 :])) for own, s in joined]


def _stack(op: Operation) -> list[Source]:
    k = op.params["axis"]
    joined = _joined(op, op.axes[k], [1] * len(op.shapes))
    return [s._replace(axes=(*op.axes[:k], *op.axes[k + 1 :])) for _, s in joined]


def _unstack(op: Operation) -> list[Source]:
    return [Source(0, _with(op.axes, [op.params["axis"]], _at(op.output)))]


def _tile(op: Operation) -> list[Source]:
    sizes = zip(op.axes, op.shapes[0], strict=True)
    return [Source(0, tuple(known(axis, lambda i, size=size: i % size) for axis, size in sizes))]


def _pad(op: Operation) -> list[Source]:
    here, levels, own = EVERYWHERE, frozenset(), []
    for axis, (low, _, inside), size in zip(
        op.axes, op.params["padding_config"], op.shapes[0], strict=True
    ):
        if isinstance(axis, At):
            index, rest = np.divmod(axis.numbers - low, inside + 1)
            stands = (rest == 0) & (index >= 0) & (index < size)
            here, levels = here & stands, levels | axis.levels
            axis = At(np.where(stands, index, 0), axis.levels)
        own.append(axis)
    return [Source(0, tuple(own), here, levels), Source(1, ())]


def _dynamic_slice(op: Operation) -> list[Source]:
    cuts = zip(op.axes, op.node.inputs[1:], op.shape, op.shapes[0], strict=True)
    own = (_cut(a, op.number(start) if n < b else None, n, b) for a, start, n, b in cuts)
    return [Source(0, tuple(own))]


def _gather(op: Operation) -> list[Source] | None:
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    batching = set(getattr(numbers, "operand_batching_dims", ()))
    if batching:
        return None
    batch = [axis for k, axis in enumerate(op.axes) if k not in numbers.offset_dims]
    kept = [k for k in range(len(sizes)) if k not in numbers.collapsed_slice_dims]
    own: list[Axis] = [_at(0)] * len(sizes)
    for k, out in zip(kept, numbers.offset_dims, strict=True):
        own[k] = op.axes[out]
    for component, k in enumerate(numbers.start_index_map):
        if sizes[k] < op.shapes[0][k]:
            own[k] = _cut(own[k], _chosen(op, batch, component), sizes[k], op.shapes[0][k])
    return [Source(0, tuple(own))]


def _chosen(op: Operation, batch: Sequence[Axis], component: int) -> At | None:
    """The index that a gather takes, at those along the axes of what it takes them from."""
    if not all(isinstance(axis, At) for axis in batch):
        return None
    table = op.number(op.node.inputs[1])
    if table is None:
        return None
    places = np.arange(len(table.numbers)) if len(table.numbers) > 1 else 0
    at = (axis.numbers for axis in batch if isinstance(axis, At))
    levels = frozenset().union(*(axis.levels for axis in batch if isinstance(axis, At)))
    return At(np.atleast_1d(table.numbers[(places, *at, component)]), table.levels | levels)


def _dot_general(op: Operation) -> list[Source]:
    contracted, batch = op.params["dimension_numbers"]
    result, out = [], len(batch[0])
    for side in range(2):
        own: list[Axis] = [Extent.WHOLE] * len(op.shapes[side])
        for k, dimension in enumerate(batch[side]):
            own[dimension] = op.axes[k]
        for k in range(len(own)):
            if k not in contracted[side] and k not in batch[side]:
                own[k] = op.axes[out]
                out += 1
        result.append(Source(side, tuple(own)))
    return result


_BEFORE: Mapping[str, Callable[[Operation], list[Source] | None]] = {
    "select_n": _select,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "dot_general": _dot_general,
}


class Index(int):
    """An index that a template of a name can put elsewhere: `{0:3,-1}` is 3 minus it.

    >>> "w[{0}] is w[{0:3,-1}], or {0:a|b|c}".format(Index(2))
    'w[2] is w[1], or c'
    """

    def __format__(self, spec: str) -> str:
        if "|" in spec:
            return spec.split("|")[self]
        if "," in spec:
            start, step = map(int, spec.split(","))
            return str(start + step * self)
        return super().__format__(spec)
