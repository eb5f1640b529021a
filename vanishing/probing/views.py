"""Views: a frame of a program with everything that its operations are recognised by."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vanishing.probing import dependence
from vanishing.probing.dependence import Dependences, Kind, Use
from vanishing.probing.factors import Factors, factors_of
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId


class FrameView(NamedTuple):
    """A frame with everything that its operations are recognised by."""

    frame: Frame
    specs: Mapping[ValueId, Any]
    dependences: Dependences
    makers: Mapping[ValueId, Node]
    users: Mapping[ValueId, Sequence[Node]]  # a node stands once for each use
    position: Mapping[Node, int]  # of each node in the frame
    weights_of: Mapping[Node, tuple[Atom, ...]]
    signals_of: Mapping[Node, list[ValueId]]
    factors: Mapping[ValueId, Factors]
    before_layer: frozenset[ValueId]  # the values that a layer follows, in this frame or around it

    def shape(self, atom: Atom) -> tuple[int, ...]:
        """The shape of a value; a literal is a scalar."""
        return () if isinstance(atom, Literal) else getattr(self.specs[atom], "shape", ())

    def maker(self, atom: Atom) -> Node | None:
        """The node of this frame that a value comes from, if one does."""
        return None if isinstance(atom, Literal) else self.makers.get(atom)

    def kind(self, atom: Atom) -> Kind:
        """What a value is computed from."""
        return self.dependences.get(atom).kind

    def sensitive(self, atom: Atom) -> bool:
        """Does a change of a parameter change the value differentiably?"""
        return self.dependences.get(atom).sensitive

    def signals(self, node: Node) -> list[ValueId]:
        """The inputs of a node that are signals, one for each use."""
        return self.signals_of[node]

    def params(self, node: Node) -> list[Atom]:
        """The inputs of a node that are weights."""
        return list(self.weights_of[node])

    def factors_of(self, value: ValueId) -> Factors:
        """What a value is a multiple of, itself among it."""
        return self.factors.get(value) or frozenset({value})

    def uses(self, node: Node) -> frozenset[Use]:
        """The parameter leaves that a node takes in."""
        return frozenset().union(*map(self.dependences.uses, self.params(node)))


def view_of(program: Program, dependences: Dependences, frame: Frame) -> FrameView:
    """A frame of a program with the makers and the users of its values."""
    users: dict[ValueId, list[Node]] = defaultdict(list)
    for node in frame.nodes:
        for atom in node.inputs:
            if not isinstance(atom, Literal):
                users[atom].append(node)
    weights = {node: dependences.weights(node) for node in frame.nodes}
    signals = {
        node: [
            a
            for a in node.inputs
            if isinstance(a, int)
            and dependences.of[a].kind == Kind.SIGNAL
            and a not in weights[node]
        ]
        for node in frame.nodes
    }
    return FrameView(
        frame=frame,
        specs=program.specs,
        dependences=dependences,
        makers={value: node for node in frame.nodes for value in node.outputs},
        users=users,
        position={node: i for i, node in enumerate(frame.nodes)},
        weights_of=weights,
        signals_of=signals,
        factors=factors_of(frame.nodes, signals),
        before_layer=_before_layer(frame, is_whole=frame is program.frame),
    )


def _before_layer(frame: Frame, is_whole: bool) -> frozenset[ValueId]:
    """The values that a layer follows; in a loop or a branch, that is any value."""
    if not is_whole:
        return frame.values.union(frame.inputs)
    result: set[ValueId] = set()
    for node in reversed(frame.nodes):
        is_layer = node.primitive in dependence.PRODUCTS or node.frames
        if is_layer or result.intersection(node.results):
            result.update(atom for atom in node.inputs if not isinstance(atom, Literal))
    return frozenset(result)
