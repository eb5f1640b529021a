"""Factors: what each value of a frame is a multiple of.

A sum is a multiple of what all its terms are multiples of. So `h + h * gate` is no residual sum,
and neither are the sums in the derivatives of activation functions, as each JAX writes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vanishing.probing.dependence import LINEAR, VIEWS
from vanishing.probing.jaxpr import Node, ValueId

Factors = frozenset[Any]  # values, and views of values with how they are taken

_MOST = 64  # of one value; of a longer product only the value itself is kept


def factors_of(
    nodes: Iterable[Node], signals: Mapping[Node, Sequence[ValueId]]
) -> dict[ValueId, Factors]:
    """The factors of every value that nodes compute from signals, itself among them.

    Args:
      nodes: of a frame, in its order.
      signals: the inputs of each node that are signals.
    """
    result: dict[ValueId, Factors] = {}
    for node in nodes:
        terms = [result.get(value, frozenset({value})) for value in signals[node]]
        if terms and (node.primitive in LINEAR or node.primitive in VIEWS):
            for value in node.outputs:
                factors = _combined(node, value, terms)
                result[value] = (factors if len(factors) < _MOST else frozenset()) | {value}
    return result


def _combined(node: Node, value: ValueId, terms: Sequence[Factors]) -> Factors:
    if node.primitive in ("add", "add_any", "sub"):
        return frozenset.intersection(*terms) if len(terms) > 1 else frozenset()
    if node.primitive == "mul":
        return frozenset.union(*terms)
    if node.primitive in LINEAR:  # of a quotient, what is divided
        return terms[0]
    if len(terms) > 1:
        return frozenset()
    params = node.equation.params.items()
    items = [(name, v) for name, v in params if name != "shape"]  # broadcast further later
    operation = str((node.primitive, node.outputs.index(value), items))
    return frozenset((factor, operation) for factor in terms[0])
