"""Reach: the values of a program that its loss depends on, collected from the loss back."""

from collections.abc import Callable, Sequence

from vanishing.probing.equations import is_differentiable
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId


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
        is_cond = node.primitive == "cond"
        operands = node.inputs[1:] if is_cond else node.inputs
        add(atom for i, atom in zip(frame.inputs, operands, strict=True) if i in reached)
        if is_cond and not differentiably:
            add(node.inputs[:1])

    frame_back(program.frame)
    return frozenset(reached)
