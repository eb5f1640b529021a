"""What a program keeps out of sight: programs inside of operations that are recorded as one.

Nothing here knows libraries by name. An operation that was neither inlined nor read as frames hides
something if its parameters hold a program, or Python that may hold one.
"""

from collections.abc import Sequence

from vanishing.probing import equations, jaxpr, sites
from vanishing.probing.dependence import PRODUCTS, Dependences
from vanishing.probing.jaxpr import Node, Program
from vanishing.probing.sites import Selected


def notes(program: Program, dependences: Dependences) -> tuple[str, ...]:
    """What is inside of operations on the gradient's way that are recorded only as a whole."""
    nodes = (node for _, node in jaxpr.walk(program.frame))
    return tuple(
        dict.fromkeys(
            f"what is inside of {_name(node)} at "
            f"{sites.line_of(node.seen_from) or 'an unknown line'}; "
            "its outputs are rows at level='op'."
            for node in nodes
            if not node.frames
            and any(dependences.on_path(value) for value in node.outputs)
            and _hides(node.equation)
        )
    )


def why_no_rows(
    program: Program, dependences: Dependences, params: int, chosen: Sequence[Selected]
) -> str:
    """Why a trace has no rows.

    Args:
      program: of the loss; its first inputs are parameters.
      dependences: of its values.
      params: how many parameters there are.
      chosen: the sites that there would be if all of them were kept.
    """
    if not dependences.reaches_loss.intersection(program.frame.inputs[:params]):
        return (
            "any row, since no parameter reaches the loss and every gradient is 0; look for "
            "stop_gradient, a cast to integers, or parameters that argnums leaves out."
        )
    if chosen:
        return f"any row, since where is true for none of the {len(chosen)} sites."
    return (
        "any row, since nothing on the gradient's way is known as a layer, a nonlinearity or a "
        "residual sum; level='op' records every operation."
    )


def _name(node: Node) -> str:
    """The operation, and the jitted function that it is in, as libraries call their wrappers."""
    names = dict.fromkeys([node.primitive, *(call.name for call in node.calls[-1:])])
    return " in ".join(names)


def _hides(eqn) -> bool:
    """Would what is inside of an equation have rows of its own?

    A function with a derivative of its own is an activation, one operation, unless it holds a
    product, a loop or a kernel. A program on single numbers, such as the sum that a scatter is
    told to take, is arithmetic.
    """
    inside = [inner for program in equations.programs_in(eqn) for inner in program.eqns]
    if equations.is_call(eqn):
        return any(map(_is_more_than_an_activation, inside))
    return (
        eqn.primitive.name in ("while", "scan")
        or equations.holds_python(eqn)
        or any(getattr(var.aval, "shape", ()) for inner in inside for var in inner.outvars)
    )


def _is_more_than_an_activation(eqn) -> bool:
    name = equations.operation(eqn)
    if name == "cond":  # of Python that only some calls reach, as a check of an error is
        inside = [inner for program in equations.programs_in(eqn) for inner in program.eqns]
        return any(_is_more_than_an_activation(i) for i in inside if not equations.holds_python(i))
    return name in PRODUCTS or _hides(eqn)
