"""Suspects: the operations that can make inf or nan of finite numbers, between two rows."""

import os
from collections.abc import Collection, Sequence

from vanishing.probing import sites
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId

# Those with a pole, a border or an infinite slope, and those that overflow soon.
_OPERATIONS = """
    acos acosh asin atan2 atanh cbrt cosh digamma div eigh erf_inv exp exp2 expm1 integer_pow lgamma
    log log1p pow rem rsqrt sinh sqrt svd tan
"""
SINGULAR = frozenset(_OPERATIONS.split())


def between_rows(program: Program, rows: Sequence[ValueId]) -> tuple[tuple[str, ...], ...]:
    """The suspects between each row and the rows before it, and those between rows and the loss.

    Args:
      program: of the loss.
      rows: the values that have one.

    Returns:
      For each row, and at the end for the loss, "op at file:line" of each suspect, in forward
      order; those of a row's own operations are among them.
    """
    search = _Search(rows)
    (loss, *_) = search.frame(program.frame, [0] * len(program.frame.inputs))
    return tuple(map(search.places, [*(search.before.get(value, 0) for value in rows), loss]))


class _Search:
    """Goes through a program in forward order; a set of suspects is an integer with their bits."""

    def __init__(self, rows: Collection[ValueId]):
        self.rows = frozenset(rows)
        self.before: dict[ValueId, int] = {}  # suspects since the rows before, by row
        self.suspects: dict[Node, int] = {}  # their bits

    def frame(self, frame: Frame, inputs: Sequence[int]) -> list[int]:
        """The suspects since the last rows of a frame's results, given those of its inputs."""
        since = dict(zip(frame.inputs, inputs, strict=True))

        def of(atom: Atom) -> int:
            return 0 if isinstance(atom, Literal) else since.get(atom, 0)

        for node in frame.nodes:
            operands = [of(atom) for atom in node.inputs]
            if node.frames:
                results = self.inner(node, operands)
            else:
                results = [_union([*operands, self.bit(node)])] * len(node.results)
            for value, suspect_bits in zip(node.results, results, strict=True):
                since[value] = suspect_bits
                if value in self.rows:
                    self.before[value] = self.before.get(value, 0) | suspect_bits
                    since[value] = 0
        return [of(atom) for atom in frame.results]

    def inner(self, node: Node, operands: list[int]) -> list[int]:
        """The same of a node with frames."""
        inputs = operands[1:] if node.primitive == "cond" else list(operands)
        while True:
            results = [self.frame(frame, inputs) for frame in node.frames]
            before = list(inputs)
            for i, o in node.turns:  # what one turn of a loop hands to the next
                inputs[i] |= results[0][o]
            if inputs == before:
                return [_union(alternatives) for alternatives in zip(*results, strict=True)]

    def bit(self, node: Node) -> int:
        """The bit of an operation if it is a suspect, else 0."""
        if node.primitive not in SINGULAR or _is_safe(node):
            return 0
        return self.suspects.setdefault(node, 1 << len(self.suspects))

    def places(self, suspect_bits: int) -> tuple[str, ...]:
        """Where the suspects of a set are."""
        if not suspect_bits:
            return ()
        nodes = list(self.suspects)
        bits = (bit for bit in range(suspect_bits.bit_length()) if suspect_bits >> bit & 1)
        return tuple(dict.fromkeys(_place(nodes[bit]) for bit in bits))


def _place(node: Node) -> str:
    """An operation and its source line, in few words."""
    line = os.path.basename(sites.line_of(node.seen_from))
    return f"{node.primitive} at {line}" if line else node.primitive


def _is_safe(node: Node) -> bool:
    """Is it a division by a number, or a power of at least 1?"""
    if node.primitive == "integer_pow":
        return node.equation.params["y"] > 0
    divisor = node.inputs[-1]
    is_number = isinstance(divisor, Literal) and bool(divisor.value != 0)
    return node.primitive == "div" and is_number


def _union(suspect_bits: Sequence[int]) -> int:
    result = 0
    for bits in suspect_bits:
        result |= bits
    return result
