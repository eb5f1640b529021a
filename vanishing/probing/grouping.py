"""Grouping: the rows of a network layer by layer, each of the operations that make up a layer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vanishing.probing import dependence, patterns
from vanishing.probing.chains import context_of, ends_chain, reductions, used_once_from
from vanishing.probing.dependence import Dependences, Use
from vanishing.probing.jaxpr import Frame, Literal, Local, Node, Program, ValueId
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.patterns import Context, FrameView, Role, SiteKind


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A value that gets a row, and the operations that the row stands for."""

    node: Node  # that makes the value
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
    if node.primitive in dependence.NONLINEAR or patterns.is_custom(node, "custom_jvp"):
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
    context = context_of(patterns.view_of(program, dependences, frame))
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
    return _Merged(LayerRow(node, node.outputs[0], ("softmax",), SiteKind.NONLINEARITY))


def _normalization(node: Node, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    uses = _uses(node, context)
    row = LayerRow(node, node.outputs[0], ("normalize",), SiteKind.NORMALIZATION, uses)
    return _merged(row, rows, context, leaves)


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
    Role.SOFTMAX: _softmax,
    Role.SUM: _sum,
    Role.BIAS_OR_SCALE: _bias_or_scale,
    Role.LAYER: _layer,
}


def _uses(node: Node, context: Context) -> frozenset[Use]:
    """The leaves that a node takes in, also in the statistics that it divides by."""
    values = [atom for atom in node.inputs if isinstance(atom, int)]
    statistics = (context.statistics.get(value, frozenset()) for value in values)
    return context.view.uses(node).union(*statistics)


def _merged(row: LayerRow, rows, context: Context, leaves: Sequence[Leaf]) -> _Merged:
    """A row that takes the place of the rows before it where it only adds a bias or a scale."""
    replaces: list[ValueId] = []
    for value in context.view.signals(row.node):
        chain = context.chains[value]
        earlier = rows.get(chain.root)
        if earlier is None or chain.root in replaces or chain.nonlinear:
            continue
        if used_once_from(earlier.value, value, context) and _belongs(row, earlier, leaves):
            replaces.append(chain.root)
            row = dataclasses.replace(
                row,
                ops=tuple(dict.fromkeys(earlier.ops + row.ops)),
                kind=earlier.kind if row.kind == SiteKind.OTHER else row.kind,
                uses=row.uses | earlier.uses,
            )
    return _Merged(row, replaces)


def _belongs(row: LayerRow, earlier: LayerRow, leaves: Sequence[Leaf]) -> bool:
    """Are a row's leaves of the same module as an earlier row's, or at most vectors?"""
    modules = {leaves[use.leaf].module for use in earlier.uses}
    return all(
        leaves[use.leaf].module in modules or len(leaves[use.leaf].shape) - len(use.levels) <= 1
        for use in row.uses
    )


def _cell(uses: frozenset[Use], leaves: Sequence[Leaf]) -> str:
    """The container next above the ones that leaves are in: that of a recurrent cell."""
    modules = {leaves[use.leaf].module for use in uses}
    return min(modules, default="").rpartition(".")[0]


def _nonlinearities(context: Context) -> dict[ValueId, LayerRow]:
    """The rows of activation functions: nonlinear chains that something else takes up."""
    reduced, signals = reductions(context.view), context.view.dependences.signals
    rows = {}
    for value, chain in context.chains.items():
        statistic = chain.root in reduced or chain.root in context.statistics
        if chain.nonlinear and not statistic and value in signals and ends_chain(value, context):
            op = None if _only_rewrites(value, rows, context) else _activation(value, context)
            if op is not None:
                local = Local(chain.root, chain.nodes) if chain.nodes else None
                node = context.view.makers[value]
                rows[value] = LayerRow(node, value, (op,), SiteKind.NONLINEARITY, local=local)
    return rows


def _only_rewrites(value: ValueId, rows, context: Context) -> bool:
    """Is a value arithmetic on one activation that has its row, as a slope or `1 - gate` is?"""
    nodes = context.chains[value].nodes
    for earlier in (node.outputs[0] for node in nodes if node.outputs[0] in rows):
        rest = [node for node in nodes if node not in context.chains[earlier].nodes]
        within = {earlier, *(node.outputs[0] for node in rest)}
        takes_in = {atom for node in rest for atom in context.view.signals(node)}
        if takes_in <= within and not any(map(patterns.is_signature, rest)):
            return True
    return False


def _activation(value: ValueId, context: Context) -> str | None:
    """The name of the activation function that a nonlinear chain is; None where it is none."""
    view, chain = context.view, context.chains[value]
    node = view.makers[value]
    names = [n.primitive for n in chain.nodes] or [node.primitive]
    custom = [n.primitive for n in (*chain.nodes, node) if patterns.is_custom(n)]
    signature = next((name for name in (*custom, *patterns.SIGNATURES) if name in names), None)
    only_reduced = all(user.primitive.startswith("reduce_") for user in view.users[value])
    if not signature and (only_reduced or set(names) <= {"exp", *dependence.LINEAR}):
        return None  # arithmetic of a loss or of a statistic
    if not view.sensitive(value) or view.shape(value) == ():
        return None
    named_by = next((n for n in chain.nodes if n.primitive == signature), node)
    calls = [call for call in named_by.calls if call not in ("_where", "clip")]
    op = calls[-1] if calls else signature or names[0]
    return None if op in patterns.LOSS_FUNCTIONS and not _layer_follows(value, view) else op


def _layer_follows(value: ValueId, view: FrameView) -> bool:
    """Is there a layer downstream, in this frame or around it?"""
    if value in view.frame.outputs or view.dependences.loops[value]:
        return True
    reached = {value}
    for node in view.frame.nodes:
        if reached.intersection(a for a in node.inputs if not isinstance(a, Literal)):
            if node.primitive in dependence.PRODUCTS or node.frames:
                return True
            reached.update(node.results)
    return False
