"""Reach: the values that a loss depends on, and those that depend on a parameter."""

from collections.abc import Callable, Iterable, Sequence

from vanishing.probing.equations import is_differentiable
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId

RESHAPES = frozenset(  # views that keep every number once, or repeat all of them
    {"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "transpose"}
)


def reaching(
    program: Program,
    losses: Sequence[Atom],
    passes: Callable[[Atom, Node], bool],
    *,
    differentiably: bool = True,
) -> frozenset[ValueId]:
    """The values that the loss depends on, collected from the loss back.

    Args:
      program: whose values they are.
      losses: the values that are the loss.
      passes: does what an operation depends on include this input of it?
      differentiably: leave out values that can have no gradient, and what only chooses a branch.
    """
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
            if not node.frames:
                for result in results:
                    add(atom for atom in node.sources(result) if passes(atom, node))
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
        add(atom for i, atom in zip(frame.inputs, node.operands, strict=True) if i in reached)
        if node.primitive == "cond" and not differentiably:
            add(node.inputs[:1])

    frame_back(program.frame)
    return frozenset(reached)


def following(
    program: Program, starts: Sequence[ValueId], passes: Callable[[Atom, Node], bool]
) -> frozenset[ValueId]:
    """The differentiable values that depend on any of these, collected from them on.

    Args:
      program: whose values they are.
      starts: where to begin.
      passes: as of `reaching`.
    """
    reached = set(starts)

    def add(pairs) -> None:
        reached.update(
            value for atom, value in pairs if atom in reached and is_differentiable(specs[value])
        )

    specs = program.specs

    def frame_on(frame: Frame) -> None:
        for node in frame.nodes:
            if not node.frames:
                pairs = ((atom, value) for value in node.results for atom in node.sources(value))
                add((atom, value) for atom, value in pairs if passes(atom, node))
            for inner in node.frames:
                inner_on(node, inner)

    def inner_on(node: Node, frame: Frame) -> None:
        add(zip(node.operands, frame.inputs, strict=True))
        before = -1
        while before != len(reached):  # a carry that depends on them hands that to the next turn
            before = len(reached)
            frame_on(frame)
            add((frame.results[o], frame.inputs[i]) for i, o in node.turns)
        add(zip(frame.results, node.results, strict=True))

    frame_on(program.frame)
    return frozenset(reached)


def users(frame: Frame) -> dict[ValueId, list[Node]]:
    """The operations of a frame that take in each value."""
    result: dict[ValueId, list[Node]] = {}
    for node in frame.nodes:
        for atom in dict.fromkeys(a for a in node.inputs if not isinstance(a, Literal)):
            result.setdefault(atom, []).append(node)
    return result


def makers(frame: Frame) -> dict[ValueId, Node]:
    """The operation of a frame that makes each value."""
    return {value: node for node in frame.nodes for value in node.outputs}


def downstream(frame: Frame, values: Iterable[ValueId]) -> set[ValueId]:
    """These values of a frame and all that is computed from them there, integers included."""
    reached = set(values)
    for node in frame.nodes:
        if reached.intersection(a for a in node.inputs if not isinstance(a, Literal)):
            reached |= set(node.outputs)
    return reached


def origin(atom: Atom, makers: dict[ValueId, Node]) -> ValueId | None:
    """What a value of a frame is but a view of, in another shape or dtype; None of a number."""
    while not isinstance(atom, Literal):
        node = makers.get(atom)
        if node is None or node.primitive not in RESHAPES:
            return atom
        atom = node.inputs[0]
    return None
