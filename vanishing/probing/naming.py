"""Naming: which layer each row of a program follows, and so what it is called."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from vanishing.probing import row_names, templates
from vanishing.probing.dependence import Dependences, Kind, Use
from vanishing.probing.grouping import LayerRow
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.origins import Origin
from vanishing.probing.patterns import SiteKind


class Name(NamedTuple):
    """What a row is called."""

    label: str  # "{0}" stands for the index of the outermost loop around it
    param: str  # path of the parameters that it uses, or ""
    scope: str


class _Layer(NamedTuple):
    """A layer that rows may follow."""

    base: str  # its label, without a place in time
    scope: str


def name_rows(
    program: Program,
    dependences: Dependences,
    leaves: Sequence[Leaf],
    rows: Mapping[ValueId, LayerRow],
    level: str,
) -> dict[ValueId, Name]:
    """The name of every row of a program.

    Args:
      program: that the rows are of.
      dependences: of its values.
      leaves: the parameters, by number.
      rows: all of them, by the value that they record.
      level: "layer" or "op"; see `vanishing.probe`.
    """
    naming = _Naming(dependences, leaves, rows, level)
    naming.frame(program.frame, [0] * len(program.frame.inputs), first=0)
    return naming.names


class _Naming:
    """Goes through a program in forward order and names its rows.

    A value's history is an integer with a bit for each layer that its signal comes from.
    """

    def __init__(
        self,
        dependences: Dependences,
        leaves: Sequence[Leaf],
        rows: Mapping[ValueId, LayerRow],
        level: str,
    ):
        self.dependences, self.rows, self.level = dependences, rows, level
        self.leaves = templates.leaves_of(leaves, level)
        self.layers: list[_Layer] = []
        self.taken: set[str] = set()
        self.names: dict[ValueId, Name] = {}
        self.mapped: dict[Hashable, int] = {}  # how many batches a row was mapped over

    def frame(self, frame: Frame, inputs: Sequence[int], first: int) -> list[int]:
        """The histories of a frame's results; names its rows.

        Args:
          frame: to go through.
          inputs: histories of its inputs.
          first: bit of the first layer in the innermost loop around the frame.
        """
        histories = dict(zip(frame.inputs, inputs, strict=True))

        def history(atom: Atom) -> int:
            if isinstance(atom, Literal) or not self.dependences.of[atom].sensitive:
                return 0
            return histories.get(atom, 0)

        for value in frame.inputs:
            if value in self.rows:  # an input that is differentiated
                histories[value] |= self._name(value, frame, [], 0, first)
        for node in frame.nodes:
            operands = [history(atom) for atom in node.inputs]
            if node.frames:
                results = self._inner(node, operands, first)
            else:
                results = [_either(operands)] * len(node.results)
            for value, result in zip(node.results, results, strict=True):
                histories[value] = result
                if value in self.rows:
                    histories[value] |= self._name(value, frame, operands, result, first)
        return [history(atom) for atom in frame.results]

    def _inner(self, node: Node, operands: list[int], first: int) -> list[int]:
        """The histories of what the frames of a node make."""
        if not node.loop:
            inputs = operands[1:] if node.primitive == "cond" else operands
            branches = [self.frame(frame, inputs, first) for frame in node.frames]
            return [_either(alternatives) for alternatives in zip(*branches, strict=True)]
        inside = len(self.layers)
        results = self.frame(node.frames[0], operands, inside)
        level = len(self.dependences.loops[node.results[0]]) if node.results else 0
        last = 0 if node.loop.reverse else node.loop.length - 1
        moved = {}
        for bit in range(inside, len(self.layers)):  # a later row follows the last iteration
            layer = self.layers[bit]
            base = row_names.at(layer.base, level, max(last, 0))
            moved[bit] = bit if base == layer.base else self._add(base, layer.scope)
        return [_either([1 << moved.get(bit, bit) for bit in _bits(result)]) for result in results]

    def _add(self, base: str, scope: str) -> int:
        self.layers.append(_Layer(base, scope))
        return len(self.layers) - 1

    def _name(
        self, value: ValueId, frame: Frame, operands: list[int], history: int, first: int
    ) -> int:
        """Name a row; returns its bit if it is a layer or a branch that others follow, else 0."""
        row = self.rows[value]
        loops = self.dependences.loops[value]
        scope = clean(row.node.scope) or "/".join(
            call.name for call in row.node.calls if call.name[:1].isalpha()
        )
        uses, op = self._uses(row), "+".join(row.ops)
        param, base = self.named(uses, loops)
        is_alone = self.dependences.of[value].kind == Kind.PARAM
        follows = ""
        if not param:
            follows = self._before(row, frame, operands, history, first, loops)
            base = row_names.following(follows, op)
        elif is_alone or (self.level == "op" and row.kind != SiteKind.MATMUL):
            base = row_names.following(base, op)
        base, suffix = self._placed(base, loops, (base, op, row.node.source), bool(param))
        lengths = [node.loop.length for node in loops if node.loop]
        base = row_names.unique(base, lengths, self.taken, suffix)
        self.names[value] = Name(base + suffix, param, scope)
        if param and not is_alone:
            return 1 << self._add(base, scope)
        if row.kind == SiteKind.RESIDUAL and follows:  # what comes next follows the whole branch
            return 1 << self._add(follows, scope)
        return 0

    def _placed(
        self, base: str, loops: Sequence[Node], key: Hashable, has_param: bool
    ) -> tuple[str, str]:
        """A label with the indices of the loops along its parameters, and a suffix with the others.

        A loop whose iterations hand nothing on is a map over batches. What is left over of it
        stands behind it in the program and is its last batch.
        """
        if not loops and key in self.mapped:
            return base, f"[batch={self.mapped[key]}]"
        suffix = ""
        for level, node in enumerate(loops):
            if row_names.has_index(base, level):
                continue
            if not has_param and self.walks_parameters(node):
                base += f"[{{{level}}}]"
            elif _hands_on(node) or not node.loop:
                suffix += f"[t={{{level}}}]"
            else:
                suffix += f"[batch={{{level}}}]"
                self.mapped[key] = node.loop.length
        return base, suffix

    def _before(
        self, row: LayerRow, frame: Frame, operands: list[int], history: int, first: int, loops
    ) -> str:
        """The layer, or the branch of layers, that a row without parameters follows."""
        own = [bit for bit in _bits(history) if bit >= first]
        is_sum = row.kind == SiteKind.RESIDUAL and len(operands) == 2
        branch = _bits(operands[0] ^ operands[1]) if is_sum else []
        if branch := [bit for bit in branch if bit >= first]:
            path = self._of_sum(branch, clean(row.node.scope))
        elif own:
            path = self.layers[own[-1]].base
        elif loops and (
            inside := self._layers_of(frame, loops)
        ):  # at the beginning of a loop's body
            path = row_names.branch(inside, self.leaves.model)
        else:
            return self.layers[history.bit_length() - 1].base if history else ""
        for level, node in enumerate(loops):
            if not row_names.has_index(path, level) and self.walks_parameters(node):
                path += f"[{{{level}}}]"
        return path

    def _of_sum(self, bits: Sequence[int], scope: str) -> str:
        """The path of the layers of a branch, or of the module that a sum's scope says it is in."""
        path = row_names.branch([self.layers[bit].base for bit in bits], self.leaves.model)
        if not scope or "#" in path:
            return path
        module = row_names.steps(self.layers[bits[-1]].base)
        while module and module[-1].removeprefix(".") != scope.rpartition("/")[2]:
            module.pop()
        rest = row_names.steps(self.layers[bits[-1]].base)[len(module) :]
        depths = itertools.takewhile(lambda step: step.startswith("[{"), rest)
        within = "".join((*module, *depths))
        return within if module and row_names.is_within(path, within) else path

    def _layers_of(self, frame: Frame, loops: Sequence[Node]) -> list[str]:
        """The paths of the layers that a frame holds."""
        node_outputs = [node.outputs for node in frame.nodes]
        rows = [
            self.rows[value] for outputs in node_outputs for value in outputs if value in self.rows
        ]
        return [self.named(uses, loops)[1] for row in rows if (uses := self._uses(row))]

    def _uses(self, row: LayerRow) -> frozenset[Use]:
        if row.uses:
            return row.uses
        weights = self.dependences.weights(row.node)
        return frozenset().union(*map(self.dependences.uses, weights))

    def named(self, uses: frozenset[Use], loops: Sequence[Node]) -> tuple[str, str]:
        """The path of a row's parameters, and a template of what the row is called."""
        if not uses:
            return "", ""
        values = sorted({use.value for use in uses})
        origins = [origin for value in values for origin in self.dependences.origins.of(value)]
        if not origins:  # an input that is differentiated
            origins = [Origin(use.leaf) for use in sorted(uses)]
        origins = templates.settled(origins)
        path = templates.path_of(origins, self.leaves)
        return path, templates.template(origins, self.leaves, loops)

    def walks_parameters(self, node: Node) -> bool:
        """Does a loop go along parameters? If not, it goes over time."""
        level = len(self.dependences.loops[node.slices[0]]) - 1 if node.slices else 0
        weights = filter(self.dependences.is_weight, node.slices)
        return any(
            level in origin.levels
            for value in weights
            for origin in templates.settled(self.dependences.origins.of(value))
        )


def _hands_on(node: Node) -> bool:
    """Does an iteration of a loop hand anything to the next but what it was handed itself?"""
    (body,) = node.frames
    return any(body.results[o] != body.inputs[i] for i, o in node.turns)


def _either(histories: Sequence[int]) -> int:
    result = 0
    for history in histories:
        result |= history
    return result


def _bits(history: int) -> list[int]:
    """The numbers of the bits that are set, from the first."""
    return [bit for bit in range(history.bit_length()) if history >> bit & 1]


def clean(scope: str) -> str:
    """A name scope without the marks of the transformations that it went through."""
    parts = [part for part in scope.split("/") if part and "(" not in part]
    return "/".join(part for i, part in enumerate(parts) if parts[i - 1 : i] != [part])
