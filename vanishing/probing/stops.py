"""Stops: where a stop_gradient, or a step such as argmax, cuts parameters off from the loss."""

from vanishing.probing import jaxpr, sites
from vanishing.probing.dependence import NO_GRADIENT, Dependences
from vanishing.probing.equations import is_differentiable
from vanishing.probing.jaxpr import Atom, Literal, Node, Program
from vanishing.probing.reach import following, reaching


def cutting(program: Program, dependences: Dependences, params: int) -> tuple[str, ...]:
    """The lines of the stops that leave a parameter without a gradient, the last cut first.

    Many a library's function stops what needs no gradient, as a softmax does the largest of its
    inputs. A stop counts only if a parameter that is used without a gradient would have one were
    it not for this stop, and for those that were found before, which stand nearer to the loss.

    Args:
      program: of the loss; its first inputs are parameters.
      dependences: of its values.
      params: how many parameters there are.
    """
    leaves = dependences.used.intersection(program.frame.inputs[:params])
    nodes = [node for _, node in jaxpr.walk(program.frame) if node.primitive == "stop_gradient"]
    cutting_nodes: dict[Node, None] = {}

    def passes(atom: Atom, node: Node) -> bool:
        del atom
        return node.primitive not in NO_GRADIENT or node in cutting_nodes

    reached = dependences.reaches_loss
    while nodes and (dead := leaves - reached):
        below = following(program, sorted(dead), passes)
        new = [
            node
            for node in nodes
            if node not in cutting_nodes
            and reached.intersection(node.outputs)
            and node.inputs[0] in below
        ]
        if not new:
            break
        cutting_nodes |= dict.fromkeys(new)
        reached = reaching(program, program.frame.outputs[:1], passes)
    return tuple(
        dict.fromkeys(sites.line_of(node.seen_from) or "an unknown line" for node in cutting_nodes)
    )


def steps(program: Program, dependences: Dependences, params: int) -> tuple[str, ...]:
    """ "op at file:line" of each step without a slope that leaves a parameter without a gradient.

    A step is an argmax, a rounding, a comparison or a cast to integers. Those count that the loss
    depends on, and that parameters reach which are used and have no gradient.

    Args:
      program: of the loss; its first inputs are parameters.
      dependences: of its values.
      params: how many parameters there are.
    """
    dead = dependences.used.intersection(program.frame.inputs[:params]) - dependences.reaches_loss
    below = following(program, sorted(dead), lambda _, node: not _is_step(program, node))
    nodes = [
        node
        for _, node in jaxpr.walk(program.frame)
        if _is_step(program, node)
        and dependences.used.intersection(node.outputs)
        and below.intersection(atom for atom in node.inputs if not isinstance(atom, Literal))
    ]
    places = [(node.primitive, sites.line_of(node.seen_from)) for node in nodes]
    return tuple(dict.fromkeys(f"{op} at {line}" if line else op for op, line in places))


def _is_step(program: Program, node: Node) -> bool:
    if node.frames:
        return False
    return node.primitive in NO_GRADIENT or not any(
        is_differentiable(program.specs[value]) for value in node.outputs
    )
