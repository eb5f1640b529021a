"""Origins: which part of which parameter leaf a weight is, at each place of the loops around it."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vanishing.probing import axes
from vanishing.probing.axes import EVERYWHERE, At, Axes, Extent, Operation
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId, frames
from vanishing.probing.leaf_names import LeafId

_MOST = 2000  # parts that one weight is followed back through; of a weight of more nothing is known


class Origin(NamedTuple):
    """A leaf, or a part of one, that a weight is computed from."""

    leaf: LeafId
    indices: tuple[At, ...] = ()  # along its first axes, at each place of the loops
    here: np.ndarray = EVERYWHERE  # at which places of the loops
    levels: frozenset[int] = frozenset()  # the loops that choose this leaf or its index
    mixed: bool = False  # or another leaf: nothing says which

    @property
    def anywhere(self) -> "Origin":
        """The leaf, as far as it is known without an index or a place."""
        return Origin(self.leaf, mixed=self.mixed or not self.here.all())


class _Part(NamedTuple):
    """A part of a value, on the way back to the leaves."""

    value: ValueId
    axes: Axes
    here: np.ndarray = EVERYWHERE
    levels: frozenset[int] = frozenset()
    mixed: bool = False

    @property
    def key(self):
        """Equal for equal parts."""
        own = (
            (axis.numbers.tobytes(), axis.levels) if isinstance(axis, At) else axis
            for axis in self.axes
        )
        return self.value, tuple(own), self.here.tobytes(), self.levels, self.mixed


class _Body(NamedTuple):
    """An input of a frame inside of a node."""

    node: Node
    frame: Frame
    port: int


class Origins:
    """Follows the weights of a program back to its leaves."""

    def __init__(
        self, program: Program, constants: Mapping[ValueId, Any], elementwise: frozenset[str]
    ):
        """Knows no weights yet; see `among`.

        Args:
          program: with the weights.
          constants: the values of those of its inputs that never change.
          elementwise: primitives that compute each element from those at the same place.
        """
        self.program, self.elementwise = program, elementwise
        self.first = {value: LeafId(i) for i, value in enumerate(program.frame.inputs)}
        self.constants = dict(constants)
        self.makers: dict[ValueId, Node] = {}
        self.bodies: dict[ValueId, _Body] = {}
        self.leaves: Mapping[ValueId, frozenset[LeafId]] = {}
        self.loops: Mapping[ValueId, tuple[Node, ...]] = {}
        self.known: dict[ValueId, tuple[Origin, ...]] = {}
        for frame in frames(program.frame):
            self.constants |= dict(frame.constants)
            for node in frame.nodes:
                self.makers |= dict.fromkeys(node.results, node)
                for body in node.frames:
                    ports = enumerate(body.inputs)
                    self.bodies |= {value: _Body(node, body, port) for port, value in ports}

    def among(
        self,
        leaves: Mapping[ValueId, frozenset[LeafId]],
        loops: Mapping[ValueId, tuple[Node, ...]],
    ) -> "Origins":
        """The same of other weights.

        Args:
          leaves: of each value the leaves that it is computed from, as a weight.
          loops: of each value the scans around it, outermost first.
        """
        result = copy.copy(self)
        result.leaves, result.loops, result.known = leaves, loops, {}
        return result

    def of(self, value: ValueId) -> tuple[Origin, ...]:
        """All origins of a weight."""
        if value not in self.known:
            self.known[value] = tuple(self._of(value))
        return self.known[value]

    def _of(self, value: ValueId) -> list[Origin]:
        lengths = [node.loop.length for node in self.loops[value] if node.loop]
        grid = np.indices(lengths).reshape(len(lengths), math.prod(lengths))
        waiting = [_Part(value, (Extent.WHOLE,) * len(self._shape(value)))]
        seen, origins = set(), []
        while waiting:
            part = waiting.pop()
            if part.key in seen:
                continue
            seen.add(part.key)
            if len(seen) > _MOST:
                return [Origin(leaf, mixed=True) for leaf in sorted(self.leaves[value])]
            before = list(self._before(part, grid)) if self.leaves[part.value] else []
            origins += [one for one in before if isinstance(one, Origin)]
            waiting += [one for one in before if isinstance(one, _Part)]
        return origins

    def _before(self, part: _Part, grid: np.ndarray) -> Iterator[Origin | _Part]:
        """What a part of a value is computed from."""
        if part.value in self.bodies:
            body = self.bodies[part.value]
            yield from self._around(part, body, grid)
        elif (node := self.makers.get(part.value)) is None:
            yield self._leaf(part)
        elif node.frames or (sources := self._sources(node, part, grid)) is None:
            may_choose = node.primitive.startswith(("scatter", "dynamic_update", "gather"))
            yield from self._lost(part, mixed=may_choose or bool(node.frames))
        else:
            for source in sources:
                atom = node.inputs[source.position]
                if isinstance(atom, Literal) or not self.leaves[atom]:
                    continue
                here = part.here & source.here
                if here.any():
                    levels, mixed = part.levels | source.levels, part.mixed or source.mixed
                    yield _Part(atom, source.axes, here, levels, mixed)

    def _leaf(self, part: _Part) -> Origin:
        index = []
        for axis in part.axes:
            if not isinstance(axis, At):
                break
            index.append(axis)
        levels = part.levels.union(*(axis.levels for axis in index))
        return Origin(self.first[part.value], tuple(index), part.here, levels, part.mixed)

    def _lost(self, part: _Part, mixed: bool) -> Iterator[Origin]:
        leaves = self.leaves[part.value]
        for leaf in leaves:
            either = part.mixed or (mixed and len(leaves) > 1)
            yield Origin(leaf, (), part.here, part.levels, either)

    def _sources(self, node: Node, part: _Part, grid: np.ndarray):
        if part.value not in node.outputs:
            return None  # a reference
        if node.primitive == "optimization_barrier":
            return [axes.Source(node.outputs.index(part.value), part.axes)]
        operation = Operation(
            node=node,
            output=node.outputs.index(part.value),
            axes=part.axes,
            shapes=[() if isinstance(a, Literal) else self._shape(a) for a in node.inputs],
            shape=self._shape(part.value),
            number=lambda atom: self._number(atom, grid),
        )
        return axes.sources(operation, node.primitive in self.elementwise)

    def _shape(self, value: ValueId) -> tuple[int, ...]:
        return getattr(self.program.specs[value], "shape", ())

    def _around(self, part: _Part, body: _Body, grid: np.ndarray) -> Iterator[Origin | _Part]:
        """The part of a node's input that a part of an input of its frame is."""
        node, port = body.node, body.port
        atom = node.operands[port]
        loop = node.loop
        if isinstance(atom, Literal):
            return
        if not loop or port < loop.consts or _is_handed_on(body):
            yield part._replace(value=atom)
        elif port < loop.consts + loop.carry:
            yield from self._lost(part, mixed=True)
        else:
            level = len(self.loops[part.value]) - 1
            index = At(grid[level], frozenset({level}))
            yield part._replace(value=atom, axes=(index, *part.axes))

    def _number(self, atom: Atom, grid: np.ndarray) -> At | None:
        """The integers of a value, with a first axis of places of the loops, if they are known."""
        if isinstance(atom, Literal):
            return At(np.asarray(atom.value)[None])
        if atom in self.constants:
            return _constant(self.constants[atom])
        if atom in self.bodies:
            return self._number_around(atom, self.bodies[atom], grid)
        node = self.makers.get(atom)
        compute = _ARITHMETIC.get(node.primitive) if node else None
        if node is None or compute is None:
            return None
        inputs = [self._number(a, grid) for a in node.inputs]
        own = [one for one in inputs if one is not None]
        if len(own) < len(inputs):
            return None
        params, shape = node.equation.params, self._shape(atom)
        index = compute(params, shape, *(one.numbers for one in own))
        return At(index, frozenset().union(*(one.levels for one in own)))

    def _number_around(self, value: ValueId, body: _Body, grid: np.ndarray) -> At | None:
        node, port = body.node, body.port
        loop = node.loop
        outer = self._number(node.operands[port], grid)
        if outer is None or not loop or port < loop.consts or _is_handed_on(body):
            return outer
        level = len(self.loops[value]) - 1
        place = loop.length - 1 - grid[level] if loop.reverse else grid[level]
        levels = outer.levels | {level}
        if port >= loop.consts + loop.carry:
            first = np.arange(len(grid[level])) if len(outer.numbers) > 1 else 0
            return At(outer.numbers[first, grid[level]], levels)
        turn = self.makers.get(result) if isinstance(result := _result(body), int) else None
        if turn is None or turn.primitive != "add" or value not in turn.inputs:
            return None
        steps = [atom.value for atom in turn.inputs if isinstance(atom, Literal)]
        return (
            At(outer.numbers + steps[0] * place, levels)
            if steps and not outer.numbers[0].shape
            else None
        )


def _constant(value: Any) -> At | None:
    dtype = getattr(value, "dtype", None)
    if isinstance(value, Tracer) or dtype is None:
        return None
    is_number = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    return At(np.asarray(jax.device_get(value))[None]) if is_number else None


def _result(body: _Body) -> Atom | None:
    """What an iteration hands to the next in the place of an input of its frame."""
    return next((body.frame.results[o] for i, o in body.node.turns if i == body.port), None)


def _is_handed_on(body: _Body) -> bool:
    """Does each iteration hand on what it was handed itself?"""
    return _result(body) == body.frame.inputs[body.port]


def _reshaped(params, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), *shape)


def _broadcast(params, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    dimensions = params["broadcast_dimensions"]
    sizes = [1] * len(shape)
    for size, k in zip(x.shape[1:], dimensions, strict=True):
        sizes[k] = size
    return np.broadcast_to(x.reshape(len(x), *sizes), (len(x), *shape))


def _iota(params, shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape)[params["dimension"]][None]


_ARITHMETIC = {  # of arrays with a first axis of places
    "add": lambda params, shape, x, y: x + y,
    "sub": lambda params, shape, x, y: x - y,
    "mul": lambda params, shape, x, y: x * y,
    "lt": lambda params, shape, x, y: x < y,
    "max": lambda params, shape, x, y: np.maximum(x, y),
    "min": lambda params, shape, x, y: np.minimum(x, y),
    "select_n": lambda params, shape, which, x, y: np.where(which, y, x),
    "convert_element_type": lambda params, shape, x: x.astype(params["new_dtype"]),
    "broadcast_in_dim": _broadcast,
    "iota": _iota,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "copy": lambda params, shape, x: x,
}
