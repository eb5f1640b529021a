"""Totals: single numbers that the whole of a signal was reduced to, where the loss begins."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vanishing.probing import dependence
from vanishing.probing.dependence import Dependences, Kind
from vanishing.probing.jaxpr import Atom, Literal, Node, Program, ValueId, walk


class _Link(NamedTuple):
    """A value, what it is computed from, and the node that does; None into and out of frames."""

    result: ValueId
    sources: Sequence[ValueId]
    node: Node | None


def of_loss(program: Program, dependences: Dependences) -> frozenset[ValueId]:
    """The signals that are computed of totals, and lead to nothing but more of these.

    The mean of a cost, its sum with a penalty, its product with a learnt weight of the cost: all
    that stands between the network and the loss, whose gradient says nothing of the network. A
    total that the network goes on with, as a gate or a statistic, is not among them.

    Args:
      program: whose values they are.
      dependences: of these.
    """
    links = list(_links(program))
    signals = {value for value in dependences.reaches_loss if _kind(value, dependences) > Kind.DATA}
    wide = _wide(links, dependences) & signals
    leading_on = set(wide)
    while more := {
        source
        for link in links
        if link.result in leading_on
        for source in link.sources
        if source not in leading_on
    }:
        leading_on |= more
    return frozenset(signals - leading_on)


def _links(program: Program) -> Iterator[_Link]:
    for _, node in walk(program.frame):
        if not node.frames:
            for result in node.results:
                yield _Link(result, _values(node.sources(result)), node)
        for frame in node.frames:
            turns = ((frame.inputs[i], frame.results[o]) for i, o in node.turns)
            for result, source in (
                *zip(frame.inputs, node.operands, strict=True),
                *zip(node.results, frame.results, strict=True),
                *turns,
            ):
                yield _Link(result, _values([source]), None)


def _values(atoms: Sequence[Atom]) -> list[ValueId]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _kind(value: ValueId, dependences: Dependences) -> Kind:
    return dependences.of[value].kind


def _wide(links: Sequence[_Link], dependences: Dependences) -> set[ValueId]:
    """The values that are more than totals, and what is computed of them."""
    results = {link.result for link in links}
    wide = {v for v, d in dependences.of.items() if v not in results and d.kind > Kind.DATA}
    while more := {
        link.result
        for link in links
        if link.result not in wide and _is_wide(link, wide, dependences)
    }:
        wide |= more
    return wide


def _is_wide(link: _Link, wide: set[ValueId], dependences: Dependences) -> bool:
    """Is more than totals computed, of what is known to be more than totals?

    A single number that is computed of a total and of anything else belongs to the loss.
    """
    kinds = {value: _kind(value, dependences) for value in link.sources}
    learnt = [value for value, kind in kinds.items() if kind > Kind.DATA]
    if link.node is None or not learnt:
        return not wide.isdisjoint(learnt)
    sizes, is_product = dependences.sizes, link.node.primitive in dependence.PRODUCTS
    largest = max(sizes[value] for value in learnt)
    if sizes[link.result] > 1:
        signals = [value for value in learnt if kinds[value] == max(kinds.values())]
        spreads = is_product or largest < max(map(sizes.__getitem__, kinds))
        return spreads or not wide.isdisjoint(signals)
    is_layer = is_product and 0 < len(dependences.weights(link.node)) < len(link.node.inputs)
    reduces = largest > 1 and not is_layer and link.node.primitive not in dependence.VIEWS
    return not reduces and wide.issuperset(learnt)
