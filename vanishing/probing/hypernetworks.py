"""Hypernetworks: products whose matrix another network has made."""

from vanishing.probing import dependence
from vanishing.probing.jaxpr import Atom, Literal, Node
from vanishing.probing.views import FrameView


def takes_a_made_matrix(node: Node, view: FrameView) -> bool:
    """Is this a product of a signal with a matrix that was a signal's vector?

    The matrix that was made of one example is meant for all of them: where each example has its
    own, the product has axes of examples, as the products of attention do.
    """
    if node.equation.primitive.name == "dot_general":
        _, batch = node.equation.params["dimension_numbers"]
        if batch[0]:
            return False
    elif node.primitive not in dependence.PRODUCTS:
        return False
    return sum(_was_a_vector(atom, view) for atom in node.inputs[:2]) == 1


def _was_a_vector(atom: Atom, view: FrameView) -> bool:
    """Is a signal a view, scaled or shifted, of one with fewer axes that came through a layer?"""
    while not isinstance(atom, Literal) and view.dependences.get(atom).layered:
        maker = view.maker(atom)
        if maker is None or maker.primitive not in dependence.VIEWS | dependence.LINEAR:
            return False
        source = next((a for a in maker.inputs if view.dependences.get(a).layered), None)
        if source is None:
            return False
        if maker.primitive == "reshape" and len(view.shape(source)) < len(view.shape(atom)):
            return view.sensitive(atom)
        atom = source
    return False
