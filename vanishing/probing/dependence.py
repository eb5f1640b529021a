"""Dataflow analysis: what each value depends on, and whether the loss depends on it."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vanishing.probing.equations import is_differentiable
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId
from vanishing.probing.leaf_names import LeafId

# Names of JAX's primitives, by what they do to a signal.
PRODUCTS = frozenset(
    {"conv_general_dilated", "dot_general", "einsum", "ragged_dot", "ragged_dot_general"}
)
_LINEAR = """
    add add_any complex conj convert_element_type copy div imag mul neg real sub
"""
PREDICATES = frozenset({"and", "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "xor"})
ROUNDING = frozenset({"ceil", "floor", "nextafter", "round", "sign", "stop_gradient"})
NO_GRADIENT = ROUNDING | PREDICATES
_NONLINEAR = """
    abs acos acosh asin asinh atan atan2 atanh cbrt clamp cos cosh custom_jvp_call digamma erf
    erf_inv erfc exp exp2 expm1 igamma integer_pow lgamma log log1p logistic max min
    one_minus_square pow rsqrt select_n sin sinh sqrt square tan tanh
"""
_VIEWS = """
    broadcast_in_dim concatenate convert_element_type copy copy_p dynamic_slice expand_dims gather
    name optimization_barrier pad reduce_precision reshape rev sharding_constraint slice split
    squeeze stack transpose unstack
"""
RESHAPES = frozenset(  # views that keep every number once, or repeat all of them
    {"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "transpose"}
)
LINEAR, NONLINEAR, VIEWS = (frozenset(t.split()) for t in (_LINEAR, _NONLINEAR, _VIEWS))


class Kind(enum.IntEnum):
    """What a value is computed from."""

    NOTHING = 0  # constants of the program
    DATA = 1  # arguments that are not differentiated
    PARAM = 2  # parameters alone (and constants)
    SIGNAL = 3  # parameters and anything else: what flows through the network


class Use(NamedTuple):
    """A parameter leaf, and which of the loops around it walk along its leading axes."""

    leaf: LeafId
    levels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dependence:
    """What one value depends on."""

    kind: Kind = Kind.NOTHING
    sensitive: bool = False  # a change of a parameter changes it differentiably
    uses: frozenset[Use] = frozenset()  # of a PARAM: the leaves that it is computed from

    def join(self, other: "Dependence") -> "Dependence":
        """The dependence of a value that may be either of two."""
        kind = self.kind if self.kind == other.kind else Kind.SIGNAL
        if Kind.NOTHING in (self.kind, other.kind):
            kind = max(self.kind, other.kind)
        return Dependence(kind, self.sensitive or other.sensitive, self.uses | other.uses)


class Dependences(NamedTuple):
    """The dependences of a whole program."""

    of: Mapping[ValueId, Dependence]
    reaches_loss: frozenset[ValueId]  # values with a differentiable way to the loss
    used: frozenset[ValueId]  # values with any way to the loss
    loops: Mapping[ValueId, tuple[Node, ...]]  # by value: the scans around it, outermost first

    def get(self, atom: Atom) -> Dependence:
        """The dependence of a value; a literal is a constant."""
        return Dependence() if isinstance(atom, Literal) else self.of[atom]

    def on_path(self, value: ValueId) -> bool:
        """Does the backward pass come through this value?"""
        return self.of[value].sensitive and value in self.reaches_loss


def gather(program: Program, inputs: Sequence[Dependence], losses: Sequence[Atom]) -> Dependences:
    """The dependences of a program, given those of its inputs and the values that are the loss."""
    reading = _Reading(program)
    reading.frame(program.frame, inputs, ())
    return Dependences(
        of=reading.of,
        reaches_loss=_reaching(program, losses, differentiably=True),
        used=_reaching(program, losses, differentiably=False),
        loops=reading.loops,
    )


class _Reading:
    """Collects dependences from the inputs of a program on, forward."""

    def __init__(self, program: Program):
        self.program = program
        self.of: dict[ValueId, Dependence] = {}
        self.loops: dict[ValueId, tuple[Node, ...]] = {}

    def frame(
        self, frame: Frame, inputs: Sequence[Dependence], loops: tuple[Node, ...]
    ) -> list[Dependence]:
        """Note the dependences of a frame's values; returns those of its outputs."""
        self.of.update(zip(frame.inputs, inputs, strict=True))
        self.of.update((number, Dependence()) for number, _ in frame.constants)
        for number in (*frame.inputs, *(number for number, _ in frame.constants)):
            self.loops[number] = loops
        for node in frame.nodes:
            outputs = self.node(node, loops)
            for number, output in zip(node.results, outputs, strict=True):
                sensitive = output.sensitive and is_differentiable(self.program.specs[number])
                self.of[number] = dataclasses.replace(output, sensitive=sensitive)
                self.loops[number] = loops
        return [self.get(atom) for atom in frame.results]

    def get(self, atom: Atom) -> Dependence:
        return Dependence() if isinstance(atom, Literal) else self.of[atom]

    def node(self, node: Node, loops) -> list[Dependence]:
        inputs = [self.get(atom) for atom in node.inputs]
        if node.loop:
            return self.scan(node, inputs, loops)
        if node.primitive == "cond":
            branches = [self.frame(frame, inputs[1:], loops) for frame in node.frames]
            outputs = branches[0]
            for branch in branches[1:]:
                outputs = [a.join(b) for a, b in zip(outputs, branch, strict=True)]
            return outputs
        if node.frames:
            return self.frame(node.frames[0], inputs, loops)
        return [
            self.operation(node, [self.get(atom) for atom in node.sources(result)])
            for result in node.results
        ]

    def operation(self, node: Node, inputs: list[Dependence]) -> Dependence:
        kinds = {one.kind for one in inputs}
        sensitive = any(f.sensitive for f in inputs) and node.primitive not in NO_GRADIENT
        kind = max(kinds, default=Kind.NOTHING)
        if kind == Kind.PARAM and Kind.DATA in kinds:
            kind = Kind.SIGNAL
        if (
            kind == Kind.PARAM
            and node.primitive in PRODUCTS
            and not all(one.kind == Kind.PARAM for one in inputs)
        ):
            kind = Kind.SIGNAL  # data that the loss closes over look like constants
        if kind != Kind.PARAM:
            return Dependence(kind, sensitive)
        return Dependence(kind, sensitive, frozenset().union(*(one.uses for one in inputs)))

    def scan(self, node: Node, inputs: list[Dependence], loops) -> list[Dependence]:
        loop = node.loop
        assert loop is not None
        first_x = loop.consts + loop.carry
        level = len(loops)
        inputs = inputs[:first_x] + [
            dataclasses.replace(
                one, uses=frozenset(Use(u.leaf, (*u.levels, level)) for u in one.uses)
            )
            for one in inputs[first_x:]
        ]
        while True:  # what is carried may become more after a turn, never less
            results = self.frame(node.frames[0], inputs, (*loops, node))
            before = list(inputs)
            for i, o in node.turns:
                results[o] = inputs[i] = inputs[i].join(results[o])
            if inputs == before:
                return results


def _reaching(program: Program, losses: Sequence[Atom], differentiably: bool) -> frozenset[ValueId]:
    """The values that the loss depends on, collected from the loss back."""
    reached = {atom for atom in losses if not isinstance(atom, Literal)}

    def add(atoms) -> None:
        reached.update(
            atom
            for atom in atoms
            if not isinstance(atom, Literal)
            and (is_differentiable(program.specs[atom]) or not differentiably)
        )

    def frame_back(frame: Frame) -> None:
        for node in reversed(frame.nodes):
            results = reached.intersection(node.results)
            if not results:
                continue
            if not node.frames and not (differentiably and node.primitive in NO_GRADIENT):
                for result in results:
                    add(node.sources(result))
            for inner in node.frames:
                inner_back(node, inner)

    def inner_back(node: Node, frame: Frame) -> None:
        add(i for i, o in zip(frame.results, node.results, strict=True) if o in reached)
        before = -1
        while before != len(reached):  # a carry that matters makes what it was carried from matter
            before = len(reached)
            frame_back(frame)
            if node.loop:
                add(frame.results[o] for i, o in node.turns if frame.inputs[i] in reached)
        is_cond = node.primitive == "cond"
        operands = node.inputs[1:] if is_cond else node.inputs
        add(atom for i, atom in zip(frame.inputs, operands, strict=True) if i in reached)
        if is_cond and not differentiably:
            add(node.inputs[:1])

    frame_back(program.frame)
    return frozenset(reached)
