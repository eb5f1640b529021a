"""Norms: the statistics that a normalisation divides by, and which normalisation it is."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from vanishing.probing import dependence, reach
from vanishing.probing.dependence import Kind, Use
from vanishing.probing.jaxpr import Atom, Literal, Node, ValueId
from vanishing.probing.views import FrameView

_ROOTS = ("rsqrt", "sqrt")
_SQUARES = ("square", "integer_pow", "mul")


class Statistic(NamedTuple):
    """A value that is computed from means or sums over a signal or data, and from parameters."""

    uses: frozenset[Use]  # the leaves in it
    size: int  # how many numbers it is, before anything is broadcast
    divisor: bool  # is it, or was it made with, a root, such as 1 / sigma?
    reductions: frozenset[Node]  # the sums that it comes from; none for a running statistic


Statistics = Mapping[ValueId, Statistic]


def is_reduction(node: Node) -> bool:
    """Is this a sum, or another reduction, over axes?"""
    return node.primitive.startswith("reduce_") and node.primitive != "reduce_precision"


def is_elementwise_or_view(node: Node) -> bool:
    """Does a node work element by element, or only move elements?"""
    return node.primitive in dependence.LINEAR | dependence.NONLINEAR | dependence.VIEWS


def statistics(view: FrameView) -> dict[ValueId, Statistic]:
    """The statistics in a frame: means, variances, 1 / sigma, and what is computed from them alone.

    The offset of a normalisation that is written in two terms, such as `beta - mean / sigma`, is
    one as well.
    """
    result: dict[ValueId, Statistic] = {}
    for node in view.frame.nodes:
        if node.frames or len(node.outputs) != 1 or is_normalization(node, view, result):
            continue
        before = [result[a] for a in node.inputs if isinstance(a, int) and a in result]
        others = [a for a in node.inputs if a not in result and _varies(a, view)]
        if is_reduction(node) and _varies(node.outputs[0], view):
            begun = _begun(node, view)
            result[node.outputs[0]] = begun._replace(
                divisor=any(statistic.divisor for statistic in before),
                reductions=begun.reductions.union(*(statistic.reductions for statistic in before)),
            )
        elif before and is_elementwise_or_view(node) and _small(others, before, view):
            result[node.outputs[0]] = Statistic(
                uses=view.uses(node).union(*(statistic.uses for statistic in before)),
                size=max(statistic.size for statistic in before),
                divisor=node.primitive in _ROOTS or any(statistic.divisor for statistic in before),
                reductions=frozenset().union(*(statistic.reductions for statistic in before)),
            )
        elif node.primitive in _ROOTS and _is_of_statistics(node.inputs[0], view):
            begun = _begun(node, view)
            result[node.outputs[0]] = begun._replace(divisor=True, reductions=frozenset())
    return result


def _begun(node: Node, view: FrameView) -> Statistic:
    size = math.prod(view.shape(node.outputs[0]))
    return Statistic(view.uses(node), size, divisor=False, reductions=frozenset({node}))


def _varies(atom: Atom, view: FrameView) -> bool:
    return view.kind(atom) in (Kind.SIGNAL, Kind.DATA)


def _small(others: list[Atom], before: list[Statistic], view: FrameView) -> bool:
    """Are the other inputs data, and no larger than the statistics that they meet?"""
    size = max(statistic.size for statistic in before)
    return all(view.kind(atom) == Kind.DATA and own_size(atom, view) <= size for atom in others)


def _is_of_statistics(atom: Atom, view: FrameView) -> bool:
    """Is this running statistics, or a product of a signal with itself?"""
    if view.kind(atom) == Kind.DATA:
        return True
    if view.kind(atom) == Kind.NOTHING:
        return math.prod(view.shape(atom)) > 1
    maker = view.maker(atom)
    while maker and is_elementwise_or_view(maker):
        ways = [a for a in maker.inputs if _varies(a, view)]
        if len(ways) != 1:
            return False
        maker = view.maker(ways[0])
    return bool(maker and maker.primitive in dependence.PRODUCTS and not view.params(maker))


def own_size(atom: Atom, view: FrameView) -> int:
    """How many numbers a value is, before it is broadcast."""
    size, maker = math.prod(view.shape(atom)), view.maker(atom)
    while maker and maker.primitive in reach.RESHAPES:
        size = min(size, math.prod(view.shape(maker.inputs[0])))
        maker = view.maker(maker.inputs[0])
    return size


def is_normalization(node: Node, view: FrameView, known: Statistics) -> bool:
    """Is a signal multiplied with, or divided by, a statistic of fewer numbers than it has?

    A mean is no such signal: its product with 1 / sigma is a statistic again.
    """
    if node.primitive not in ("mul", "div") or len(node.inputs) != 2:
        return False
    signal, by = node.inputs
    if node.primitive == "mul" and not _is_divisor(by, known):
        signal, by = by, signal
    statistic = None if isinstance(by, Literal) else known.get(by)
    if isinstance(signal, Literal) or statistic is None or not statistic.divisor:
        return False
    if signal in known:
        return not known[signal].divisor and known[signal].size > statistic.size
    is_larger = own_size(signal, view) > statistic.size
    return view.kind(signal) == Kind.SIGNAL or (view.kind(signal) == Kind.DATA and is_larger)


def _is_divisor(atom: Atom, known: Statistics) -> bool:
    return not isinstance(atom, Literal) and atom in known and known[atom].divisor


def name_of(node: Node, view: FrameView, known: Statistics) -> str:
    """Which normalisation a node is, by the axes that its statistic is taken over."""
    statistics = [known[a] for a in node.inputs if isinstance(a, int) and a in known]
    sums = next(statistic.reductions for statistic in statistics if statistic.divisor)
    if not sums:
        return "batch_norm"  # of running statistics
    # What is normalised may be a mean as well: of places, in front of a head.
    sums = sums.difference(
        *(statistic.reductions for statistic in statistics if not statistic.divisor)
    )
    places = [(len(view.shape(total.inputs[0])), total.equation.params["axes"]) for total in sums]
    if any(0 in axes and len(axes) < rank for rank, axes in places):
        return "batch_norm"
    if any(_is_regrouped(total.inputs[0], view) for total in sums):
        return "group_norm"
    if not any(rank - 1 in axes for rank, axes in places):
        return "instance_norm"
    if any(_is_centered(total.inputs[0], view, known) for total in sums):
        return "layer_norm"
    return "rms_norm" if any(_is_divided(total.outputs[0], view) for total in sums) else "l2_norm"


def _is_regrouped(summed: Atom, view: FrameView) -> bool:
    """Was an axis of a signal cut in two before the sum?"""
    maker = view.maker(summed)
    while maker and is_elementwise_or_view(maker):
        ways = [atom for atom in maker.inputs if _varies(atom, view)]
        if maker.primitive == "reshape":
            return len(view.shape(maker.outputs[0])) > len(view.shape(ways[0]))
        maker = view.maker(ways[0]) if ways else None
    return False


def _is_divided(total: ValueId, view: FrameView) -> bool:
    """Is a sum made a mean?"""
    return any(
        user.primitive in ("div", "mul")
        or (user.primitive in reach.RESHAPES and _is_divided(user.outputs[0], view))
        for user in view.users[total]
    )


def _is_centered(summed: Atom, view: FrameView, known: Statistics) -> bool:
    """Is a sum one of the signal itself, or of squares of its distance from the mean?"""
    maker = view.maker(summed)
    while maker and maker.primitive in ("convert_element_type", "abs"):
        maker = view.maker(maker.inputs[0])
    if maker is None or maker.primitive not in _SQUARES:
        return True
    if maker.primitive == "mul" and maker.inputs[0] != maker.inputs[1]:
        return True
    inner = view.maker(maker.inputs[0])
    while inner and inner.primitive in ("convert_element_type", "abs"):
        inner = view.maker(inner.inputs[0])
    return bool(inner and inner.primitive == "sub" and any(a in known for a in inner.inputs))
