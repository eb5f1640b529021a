"""Dataflow analysis: what each value depends on, and whether the loss depends on it.

A value that is computed from parameters is a weight or a signal, as it is used. A weight is what a
product multiplies a signal with, or what is added to one or scales it, together with all that it
alone is computed from: a low-rank update, noise, a mask, a spectral norm, a softplus of a scale. A
value of parameters alone that reaches the loss in no such way is a signal: a latent code, an input
that is differentiated. So is one that comes through a network of parameters alone: through a
product, a function of it, and a product with further parameters, as a learned style or positions.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from vanishing.probing.equations import is_differentiable
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId, walk
from vanishing.probing.leaf_names import LeafId
from vanishing.probing.origins import Origins
from vanishing.probing.reach import reaching

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
LINEAR, NONLINEAR, VIEWS = (frozenset(t.split()) for t in (_LINEAR, _NONLINEAR, _VIEWS))
# Operations that are no layer, whatever they take: what they return is as layered as their inputs.
_PASSING = (
    LINEAR
    | VIEWS
    | NO_GRADIENT
    | {"select_n", "reduce_sum", "get", "swap", "addupdate", "freeze", "new_ref"}
)
_ELEMENTWISE, _MOVING = LINEAR | NONLINEAR, _PASSING - LINEAR
_SAME = NO_GRADIENT | {"copy_p", "name", "reduce_precision", "sharding_constraint"}


class Kind(enum.IntEnum):
    """What a value is computed from."""

    NOTHING = 0  # constants of the program
    DATA = 1  # arguments that are not differentiated, and arrays that the loss closes over
    PARAM = 2  # parameters alone (and constants)
    SIGNAL = 3  # parameters and anything else: what flows through the network


class Use(NamedTuple):
    """A parameter leaf in a weight."""

    leaf: LeafId
    value: ValueId  # the weight
    depth: int = 0  # how many of the leaf's first axes have one index each in it


@dataclasses.dataclass(frozen=True)
class Dependence:
    """What one value depends on."""

    kind: Kind = Kind.NOTHING
    sensitive: bool = False  # a change of a parameter changes it differentiably
    leaves: frozenset[LeafId] = frozenset()  # that it is computed from, until it is layered
    layered: bool = False  # a SIGNAL that has come through a product or a nonlinearity
    plain: bool = True  # computed by views and linear operations alone
    turns: int = 0  # of parameters alone: 1 after a product of them, 2 after a function of one

    def join(self, other: "Dependence") -> "Dependence":
        """The dependence of a value that may be either of two."""
        kind = self.kind if self.kind == other.kind else Kind.SIGNAL
        if Kind.NOTHING in (self.kind, other.kind):
            kind = max(self.kind, other.kind)
        return Dependence(
            kind=kind,
            sensitive=self.sensitive or other.sensitive,
            leaves=self.leaves | other.leaves,
            layered=self.layered or other.layered,
            plain=self.plain and other.plain,
            turns=max(self.turns, other.turns),
        )


_CONSTANT = Dependence()


class Dependences(NamedTuple):
    """The dependences of a whole program."""

    of: Mapping[ValueId, Dependence]
    reaches_loss: frozenset[ValueId]  # values with a differentiable way to the loss
    used: frozenset[ValueId]  # values with any way to the loss
    signals: frozenset[ValueId]  # values with a way to the loss that is no weight's
    sizes: Mapping[ValueId, int]  # how many numbers a value holds, before it was broadcast
    loops: Mapping[ValueId, tuple[Node, ...]]  # by value: the scans around it, outermost first
    origins: Origins
    inputs: Mapping[ValueId, LeafId] = {}  # of the program: leaves that are signals, no weights

    def get(self, atom: Atom) -> Dependence:
        """The dependence of a value; a literal is a constant."""
        return _CONSTANT if isinstance(atom, Literal) else self.of[atom]

    def on_path(self, value: ValueId) -> bool:
        """Does the backward pass come through this value?"""
        return self.of[value].sensitive and value in self.reaches_loss

    def is_weight(self, atom: Atom) -> bool:
        """Is a value computed from parameters alone, or used as nothing but a weight?"""
        dependence = self.get(atom)
        is_used = bool(dependence.leaves) and atom not in self.signals
        return dependence.kind == Kind.PARAM or is_used

    def uses(self, atom: Atom) -> frozenset[Use]:
        """The leaves in a weight."""
        if isinstance(atom, Literal) or not self.of[atom].leaves:
            return frozenset()
        depths = dict.fromkeys(self.of[atom].leaves, 0)
        for origin in self.origins.of(atom):
            depths[origin.leaf] = max(depths[origin.leaf], len(origin.indices))
        return frozenset(Use(leaf, atom, depth) for leaf, depth in depths.items())

    def weights(self, node: Node) -> tuple[Atom, ...]:
        """The inputs of a node that are weights to its other inputs."""
        return tuple(atom for atom in node.inputs if self.is_weight_of(atom, node))

    def is_weight_of(self, atom: Atom, node: Node) -> bool:
        """Is an input of a node a weight to its other inputs?"""
        dependence = self.get(atom)
        if isinstance(atom, Literal) or dependence.kind == Kind.PARAM:
            return dependence.kind == Kind.PARAM
        if dependence.layered or not dependence.leaves or node.primitive in _MOVING:
            return False
        siblings = [self.get(other) for other in node.inputs if other != atom]
        if node.primitive in PRODUCTS:
            return any(
                other.kind == Kind.DATA or (other.kind == Kind.SIGNAL and other.layered)
                for other in siblings
            ) and not any(other.kind == Kind.PARAM for other in siblings)
        return (
            any(  # of single numbers, as of a cost and its penalty, the layered one is the signal
                self.get(other).layered
                and (self.sizes[other] > self.sizes[atom] or self.sizes[other] == 1)
                for other in node.inputs
                if not isinstance(other, Literal)
            )
        )


def gather(
    program: Program,
    inputs: Sequence[Dependence],
    losses: Sequence[Atom],
    constants: Mapping[ValueId, Any] = MappingProxyType({}),
) -> Dependences:
    """The dependences of a program.

    Args:
      program: to read.
      inputs: the dependences of its inputs.
      losses: the values that are the loss.
      constants: the values of those inputs that never change.
    """
    known = Dependences(
        of={},
        reaches_loss=reaching(program, losses, _has_gradient),
        used=reaching(program, losses, lambda atom, node: True, differentiably=False),
        signals=frozenset(),
        sizes={},
        loops={},
        origins=Origins(program, constants, _ELEMENTWISE | _SAME),
    )
    while (leaf := _input(program, first := _read(program, inputs, losses, known))) is not None:
        known = known._replace(inputs={**known.inputs, program.frame.inputs[leaf]: leaf})
    if any(first.of[value].kind == Kind.PARAM for value in first.signals):
        return _read(program, inputs, losses, first)  # knowing what of parameters alone is a signal
    return first


def _read(program: Program, inputs, losses: Sequence[Atom], known: Dependences) -> Dependences:
    """The dependences, given what is known already of signals and inputs."""
    reading = _Reading(program, known.signals)
    signal = Dependence(kind=Kind.SIGNAL, sensitive=True, layered=True)
    pairs = zip(program.frame.inputs, inputs, strict=True)
    own = [signal if value in known.inputs else dependence for value, dependence in pairs]
    reading.frame(program.frame, own, ())
    origins = known.origins.among(
        {value: dependence.leaves for value, dependence in reading.of.items()}, reading.loops
    )
    known = known._replace(of=reading.of, sizes=reading.sizes, loops=reading.loops, origins=origins)
    return known._replace(signals=_signals(program, known, losses))


def _input(program: Program, known: Dependences) -> LeafId | None:
    """A parameter that is no weight but an input of the network, if one is left.

    Where a product multiplies two parameters, and is no part of a weight or is of a network of
    parameters alone, one of them is a signal. The last such product is looked at first, since its
    weight may contain others.
    """
    signals = known.signals | _networks(program, known)
    for _, node in reversed(list(walk(program.frame))):
        if node.primitive not in PRODUCTS or signals.isdisjoint(node.outputs):
            continue
        pair = [known.get(atom) for atom in node.inputs[:2]]
        leaves = [dependence.leaves for dependence in pair]
        signal = _signal_of(node)
        is_leaf = (
            pair[signal].kind == Kind.PARAM and pair[signal].plain and len(leaves[signal]) == 1
        )
        if is_leaf and leaves[1 - signal] and leaves[0].isdisjoint(leaves[1]):
            return min(leaves[signal])
    return None


def _networks(program: Program, known: Dependences) -> frozenset[ValueId]:
    """The values in networks of parameters alone: what a second layer multiplies with weights.

    A second product with the same parameters makes no layer: norms of weights are made of such.
    """
    seconds = []
    for _, node in walk(program.frame):
        if node.primitive in PRODUCTS and not known.reaches_loss.isdisjoint(node.outputs):
            first, second = node.inputs[:2]
            for one, other in ((first, second), (second, first)):
                more = known.get(other).leaves - known.get(one).leaves
                if known.get(one).kind == Kind.PARAM and known.get(one).turns == 2 and more:
                    seconds.append(one)
    return reaching(program, seconds, _has_gradient) if seconds else frozenset()


def _signal_of(node: Node) -> int:
    """Which of the two inputs of a product is the signal, as far as the product itself shows it.

    It is the vector of `w @ x`, also where `vmap` made a matrix of it; else the first, as in
    `x @ w`. A convolution takes its kernel second.
    """
    if node.primitive != "dot_general":
        return 0
    contracted, batch = node.equation.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in node.equation.invars]
    free = [ranks[i] - len(contracted[i]) - len(batch[i]) for i in range(2)]
    if 0 in free:
        return free.index(0)
    return int(all(contracted[i] == (ranks[i] - 1,) for i in range(2)))


def _has_gradient(atom: Atom, node: Node) -> bool:
    del atom
    return node.primitive not in NO_GRADIENT


def _signals(program: Program, known: Dependences, losses: Sequence[Atom]) -> frozenset[ValueId]:
    """The values with a way to the loss on which they are no weight of anything."""

    def passes(atom: Atom, node: Node) -> bool:
        if not _has_gradient(atom, node):
            return False
        if node.primitive in VIEWS or not known.is_weight_of(atom, node):
            return True
        others = [known.get(other) for other in node.inputs if other != atom]
        if node.primitive in PRODUCTS:
            return all(other.kind == Kind.PARAM for other in others)
        return not any(other.layered for other in others)

    return reaching(program, losses, passes)


def _turns(node: Node, inputs: Sequence[Dependence]) -> int:
    """How far a value of parameters alone has come in a network of them."""
    turns = max(dependence.turns for dependence in inputs)
    if node.primitive in PRODUCTS:
        return max(turns, 1)
    return 2 if turns and node.primitive not in _PASSING else turns


class _Reading:
    """Collects dependences from the inputs of a program on, forward."""

    def __init__(self, program: Program, signals: frozenset[ValueId]):
        self.program, self.signals = program, signals
        self.sizes: dict[ValueId, int] = {}
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
            self.sizes[number] = self.size(number)
        for node in frame.nodes:
            outputs = self.node(node, loops)
            for number, output in zip(node.results, outputs, strict=True):
                sensitive = output.sensitive and is_differentiable(self.program.specs[number])
                self.of[number] = dataclasses.replace(output, sensitive=sensitive)
                self.loops[number] = loops
                self.sizes[number] = self.size(number)
                if node.primitive in VIEWS:  # however often it repeats them
                    sizes = (self.sizes[a] for a in node.inputs if not isinstance(a, Literal))
                    self.sizes[number] = min(self.sizes[number], sum(sizes) or 1)
        return [self.get(atom) for atom in frame.results]

    def size(self, value: ValueId) -> int:
        return math.prod(self.shape(value))

    def shape(self, value: ValueId) -> tuple[int, ...]:
        return getattr(self.program.specs[value], "shape", ())

    def get(self, atom: Atom) -> Dependence:
        return _CONSTANT if isinstance(atom, Literal) else self.of[atom]

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
        return [self.operation(node, node.sources(result), (result,)) for result in node.results]

    def operation(
        self, node: Node, atoms: Sequence[Atom], results: Sequence[ValueId]
    ) -> Dependence:
        inputs = [self.get(atom) for atom in atoms]
        kinds = {dependence.kind for dependence in inputs}
        sensitive = any(f.sensitive for f in inputs) and node.primitive not in NO_GRADIENT
        kind = max(kinds, default=Kind.NOTHING)
        if kind == Kind.PARAM and Kind.DATA in kinds:
            kind = Kind.SIGNAL
        if (
            kind == Kind.PARAM
            and node.primitive in PRODUCTS
            and not all(dependence.kind == Kind.PARAM for dependence in inputs)
        ):
            kind = Kind.SIGNAL  # a constant of the program, such as a tangent of ones, is data here
        layered = kind >= Kind.PARAM and self.is_layered(node, atoms)
        if kind == Kind.PARAM:
            layered = layered and not self.signals.isdisjoint(results)
            kind = Kind.SIGNAL if layered else kind
        return Dependence(
            kind=kind,
            sensitive=sensitive,
            leaves=frozenset() if layered else frozenset().union(*(f.leaves for f in inputs)),
            layered=layered,
            plain=kind < Kind.PARAM
            or (node.primitive in _PASSING and all(dependence.plain for dependence in inputs)),
            turns=_turns(node, inputs) if sensitive and kind == Kind.PARAM else 0,
        )

    def is_layered(self, node: Node, atoms: Sequence[Atom]) -> bool:
        """Is what a node makes layered: by the node itself, or as the largest of its inputs is?"""
        if node.primitive not in _PASSING:
            return True
        values = [atom for atom in atoms if not isinstance(atom, Literal)]
        carrying = [value for value in values if self.of[value].sensitive] or values
        largest = max((self.sizes[atom] for atom in carrying), default=0)
        return any(self.of[a].layered for a in carrying if self.sizes[a] == largest)

    def scan(self, node: Node, inputs: list[Dependence], loops) -> list[Dependence]:
        loop = node.loop
        assert loop is not None
        inputs = list(inputs)
        while True:  # what is carried may become more after a turn, never less
            results = self.frame(node.frames[0], inputs, (*loops, node))
            before = list(inputs)
            for i, o in node.turns:
                results[o] = inputs[i] = inputs[i].join(results[o])
            if inputs == before:
                return results
