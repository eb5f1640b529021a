"""Grouping: the rows of a network layer by layer, each of the operations that make up a layer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vanishing.probing import activations, dependence, norms, reach, views
from vanishing.probing.chains import context_of, ends_chain, used_once_from
from vanishing.probing.dependence import Dependences, Use
from vanishing.probing.jaxpr import Frame, Local, Node, Program, ValueId
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.patterns import Context, Role, SiteKind


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A value that gets a row, and the operations that the row stands for."""

    node: Node  # the operation that counts, such as the product of a layer
    value: ValueId
    ops: tuple[str, ...]
    kind: SiteKind
    uses: frozenset[Use] = frozenset()
    local: Local | None = None  # how the value is computed element by element, if it is


def kind_of(node: Node, dependences: Dependences) -> SiteKind:
    """The kind of a single operation."""
    sensitive = [dependences.get(atom).sensitive for atom in node.inputs]
    if node.primitive in dependence.PRODUCTS:
        return SiteKind.MATMUL
    if node.primitive in ("add", "add_any") and all(sensitive):
        return SiteKind.RESIDUAL
    if node.primitive in dependence.NONLINEAR or activations.is_custom(node, "custom_jvp"):
        return SiteKind.NONLINEARITY
    if node.primitive in ("mul", "div") and all(sensitive):
        return SiteKind.NONLINEARITY
    return SiteKind.OTHER


def rows_of(
    program: Program, dependences: Dependences, leaves: Sequence[Leaf], frame: Frame
) -> dict[ValueId, LayerRow]:
    """The rows of a frame: layers, the nonlinearities that follow them, and residual sums.

    Args:
      program: that the frame is of.
      dependences: of the program's values.
      leaves: the parameters, by number.
      frame: whose rows are wanted; the frames in it have rows of their own.
    """
    context = context_of(views.view_of(program, dependences, frame))
    return _layers(context, leaves) | _nonlinearities(context)


class _Merged(NamedTuple):
    """A row, and the earlier rows that it takes the place of."""

    row: LayerRow
    replaces: Sequence[ValueId] = ()


def _layers(context: Context, leaves: Sequence[Leaf]) -> dict[ValueId, LayerRow]:
    """The rows of layers, normalisations, softmaxes and sums."""
    rows: dict[ValueId, LayerRow] = {}
    for node in context.view.frame.nodes:
        if context.view.dependences.signals.isdisjoint(node.outputs):
            continue  # a part of a weight
        makes_row = _LAYER_ROWS.get(context.chains[node.outputs[0]].role) if node.outputs else None
        if makes_row:
            merged = makes_row(node, rows, context, leaves)
            for value in merged.replaces:
                del rows[value]
            rows[merged.row.value] = merged.row
    return rows


def _layer(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    kind = SiteKind.MATMUL if node.primitive in dependence.PRODUCTS else SiteKind.OTHER
    uses = _uses(node, context)
    return _Merged(LayerRow(node, node.outputs[0], (node.primitive,), kind, uses))


def _softmax(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    op = "attention" if _is_attention(node, context) else "softmax"
    return _Merged(LayerRow(node, node.outputs[0], (op,), SiteKind.NONLINEARITY))


def _is_attention(node: Node, context: Context) -> bool:
    """Does a softmax follow a product without parameters, and another one follow it?"""
    view = context.view

    def is_product(other: Node) -> bool:
        return other.primitive in dependence.PRODUCTS and not view.params(other)

    maker, user = node, node
    while maker and not is_product(maker):
        ways = view.signals(maker)[:1] if norms.is_elementwise_or_view(maker) else []
        maker = view.maker(ways[0]) if ways else None
    while user and not is_product(user):
        ways = view.users[user.outputs[0]] if norms.is_elementwise_or_view(user) else []
        user = ways[0] if ways else None
    return maker is not None and user is not None


def _log_softmax(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    return _Merged(LayerRow(node, node.outputs[0], ("log_softmax",), SiteKind.NONLINEARITY))


def _maxout(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    return _Merged(LayerRow(node, node.outputs[0], ("maxout",), SiteKind.NONLINEARITY))


def _normalization(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    op = norms.name_of(node, context.view, context.statistics)
    uses = _uses(node, context)
    return _Merged(LayerRow(node, node.outputs[0], (op,), SiteKind.NORMALIZATION, uses))


def _shift(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    """A normalisation with its second term, in the place of its first."""
    (value,) = (v for v in context.view.signals(node) if not context.is_divisor(v))
    row = rows.get(context.root(value))
    if row is None or row.kind != SiteKind.NORMALIZATION:
        return _sum(node, rows, context, leaves)
    uses = row.uses | _uses(node, context)
    return _Merged(dataclasses.replace(row, value=node.outputs[0], uses=uses), [row.value])


def _bias_or_scale(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    uses = _uses(node, context)
    row = LayerRow(node, node.outputs[0], (node.primitive,), SiteKind.OTHER, uses)
    return _merged(row, rows, context, leaves)


def _sum(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    """A residual sum, unless it only completes a layer that multiplies two inputs."""
    halves = [
        row
        for value in context.view.signals(node)
        if (row := rows.get(context.root(value)))
        and row.kind == SiteKind.MATMUL
        and not context.chains[value].nonlinear
        and used_once_from(row.value, value, context)
    ]
    value = node.outputs[0]
    if len(halves) == 2 and len({_cell(row.uses, leaves) for row in halves}) == 1:
        ops = tuple(dict.fromkeys((*halves[0].ops, *halves[1].ops, "add")))
        uses = halves[0].uses | halves[1].uses
        row = LayerRow(node, value, ops, SiteKind.MATMUL, uses)
        return _Merged(row, [half.value for half in halves])
    row = LayerRow(node, value, (node.primitive,), SiteKind.RESIDUAL)
    terms = [rows[v] for v in context.view.signals(node) if v in rows]
    return _Merged(row, [term.value for term in terms if _goes_on_in(row, term, context)])


def _goes_on_in(row: LayerRow, earlier: LayerRow, context: Context) -> bool:
    """Is one sum only a part of another, of more terms?"""
    is_sum = row.kind == earlier.kind == SiteKind.RESIDUAL
    return is_sum and len(context.view.users[earlier.value]) == 1


_LAYER_ROWS: Mapping[Role | None, Callable[..., _Merged]] = {
    Role.NORMALIZATION: _normalization,
    Role.SHIFT: _shift,
    Role.SOFTMAX: _softmax,
    Role.LOG_SOFTMAX: _log_softmax,
    Role.MAXOUT: _maxout,
    Role.SUM: _sum,
    Role.BIAS_OR_SCALE: _bias_or_scale,
    Role.LAYER: _layer,
}


def _uses(node: Node, context: Context) -> frozenset[Use]:
    """The leaves that a node takes in, also in the statistics that it divides by."""
    values = [atom for atom in node.inputs if isinstance(atom, int)]
    statistics = [context.statistics[v] for v in values if context.is_divisor(v)]
    return context.view.uses(node).union(*(statistic.uses for statistic in statistics))


def _merged(row: LayerRow, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    """A row that takes the place of the rows before it where it only adds a bias or a scale."""
    replaces: list[ValueId] = []
    for value in context.view.signals(row.node):
        earlier = _only_follows(value, rows, context)
        if earlier and earlier.value not in replaces and _belongs(row, earlier, leaves):
            replaces.append(earlier.value)
            is_norm = earlier.kind == SiteKind.NORMALIZATION
            row = dataclasses.replace(
                row,
                node=earlier.node,
                ops=earlier.ops if is_norm else tuple(dict.fromkeys(earlier.ops + row.ops)),
                kind=earlier.kind,
                uses=row.uses | earlier.uses,
            )
    return _Merged(row, replaces)


def _only_follows(value: ValueId, rows, context: Context) -> LayerRow | None:
    """The row that a value follows from linearly and alone, also if it was turned on the way."""
    while not context.chains[value].nonlinear:
        root = context.root(value)
        if not used_once_from(root, value, context):
            return None
        if root in rows:
            return rows[root]
        maker = context.view.maker(root)
        if maker is None or maker.primitive not in reach.RESHAPES:
            return None
        (value,) = context.view.signals(maker)
    return None


def _belongs(row: LayerRow, earlier: LayerRow, leaves: Sequence[Leaf]) -> bool:
    """Are a row's leaves of the same module as an earlier row's, or at most vectors?"""
    modules = {leaves[use.leaf].module for use in earlier.uses}
    return all(
        leaves[use.leaf].module in modules or _is_vector(leaves[use.leaf].shape[use.depth :])
        for use in row.uses
    )


def _is_vector(shape: tuple[int, ...]) -> bool:
    return sum(size > 1 for size in shape) <= 1


def _cell(uses: frozenset[Use], leaves: Sequence[Leaf]) -> str:
    """The container next above the ones that leaves are in: that of a recurrent cell."""
    modules = {leaves[use.leaf].module for use in uses}
    return min(modules, default="").rpartition(".")[0]


def _nonlinearities(context: Context) -> dict[ValueId, LayerRow]:
    """The rows of activation functions: nonlinear chains that something else takes up."""
    rows, signals = {}, context.view.dependences.signals
    for value, chain in context.chains.items():
        statistic = chain.root in context.statistics
        if chain.nonlinear and not statistic and value in signals and ends_chain(value, context):
            function = activations.recognize(value, chain.nodes, context.view)
            if function is not None and not _only_rewrites(value, rows, context):
                local = Local(chain.root, chain.nodes) if chain.nodes else None
                kind = SiteKind.NONLINEARITY
                rows[value] = LayerRow(function.node, value, (function.word,), kind, local=local)
    return rows


def _only_rewrites(value: ValueId, rows, context: Context) -> bool:
    """Is a value arithmetic on one activation that has its row, as a slope or `1 - gate` is?"""
    nodes = context.chains[value].nodes
    for earlier in (node.outputs[0] for node in nodes if node.outputs[0] in rows):
        arithmetic = [node for node in nodes if node not in context.chains[earlier].nodes]
        within = {earlier, *(node.outputs[0] for node in arithmetic)}
        takes_in = {atom for node in arithmetic for atom in context.view.signals(node)}
        if takes_in <= within and not any(map(activations.is_signature, arithmetic)):
            return True
    return False
