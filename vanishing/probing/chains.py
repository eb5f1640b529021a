"""Chains: how the values of a frame follow from one another, element by element.

Each function is one pass over a frame; a later pass reads what the earlier ones returned.
"""

from vanishing.probing import dependence, patterns
from vanishing.probing.dependence import Kind, Use
from vanishing.probing.jaxpr import Node, ValueId
from vanishing.probing.patterns import Chain, Context, FrameView, Role, is_elementwise_or_view


def statistics(view: FrameView) -> dict[ValueId, frozenset[Use]]:
    """The values that a normalisation divides by, such as 1 / sigma, and the leaves in them.

    A statistic begins at a root or its inverse, and goes on through operations without another
    signal.
    """
    result: dict[ValueId, frozenset[Use]] = {}
    for node in view.frame.nodes:
        if node.frames or len(node.outputs) != 1:
            continue
        (value,) = node.outputs
        inherited = [a for a in node.inputs if isinstance(a, int) and a in result]
        others = [a for a in node.inputs if a not in result and _varies(a, view)]
        begins = node.primitive in ("rsqrt", "sqrt") and _varies(value, view)
        goes_on = inherited and not others and is_elementwise_or_view(node)
        if begins or goes_on:
            result[value] = view.uses(node).union(*(result[a] for a in inherited))
    return result


def _varies(atom, view: FrameView) -> bool:
    return view.kind(atom) in (Kind.SIGNAL, Kind.DATA)


def reductions(view: FrameView) -> frozenset[ValueId]:
    """Means, variances, and the values that are computed from them alone."""
    result: set[ValueId] = set()
    for node in view.frame.nodes:
        if node.frames or len(node.outputs) != 1:
            continue
        signals = view.signals(node)
        from_reductions = signals and result.issuperset(signals) and is_elementwise_or_view(node)
        if node.primitive.startswith("reduce_") or from_reductions:
            result.update(node.outputs)
    return frozenset(result)


def context_of(view: FrameView) -> Context:
    """The statistics of a frame and the chain of every value in it."""
    chains = {value: Chain(value) for value in view.frame.inputs}
    context = Context(view, statistics(view), chains)
    for node in view.frame.nodes:
        role = patterns.role_of(node, context)
        for value in node.outputs:
            chains[value] = _chain(node, value, role, context)
    return context


def _chain(node: Node, value: ValueId, role: Role | None, context: Context) -> Chain:
    """The chain of a node's output, given those of its inputs."""
    signals = context.view.signals(node)
    match role:
        case Role.ELEMENTWISE:
            return _extended(node, signals, context)
        case Role.LOSS:  # the activation is complete: what follows has its output as the root
            return Chain(signals[0], (node,), nonlinear=True, role=role)
        case Role.FUNCTION:
            nodes = (node,) if patterns.is_custom(node, "custom_jvp") else ()
            return Chain(signals[0], nodes, nonlinear=True, role=role)
    return Chain(value, role=role)


def _extended(node: Node, signals: list[ValueId], context: Context) -> Chain:
    """The chains of a node's signals, which have one root, with the node at their end."""
    chains = [context.chains[value] for value in signals]
    members = {node}.union(*(chain.nodes for chain in chains))
    is_linear = node.primitive in dependence.LINEAR and (
        len(signals) == 1 or node.primitive in ("add", "sub", "add_any")
    )
    return Chain(
        root=chains[0].root,
        nodes=tuple(n for n in context.view.frame.nodes if n in members),
        nonlinear=not is_linear or any(chain.nonlinear for chain in chains),
        role=Role.ELEMENTWISE,
    )


def ends_chain(value: ValueId, context: Context) -> bool:
    """Is a value the last of its chain, which something else takes up?"""
    if value in context.view.frame.outputs:
        return True
    root = context.root(value)
    return any(
        len(node.outputs) != 1 or context.root(node.outputs[0]) != root
        for node in context.view.users[value]
    )


def used_once_from(root: ValueId, value: ValueId, context: Context) -> bool:
    """Does all of a root go through a value of its chain, and from there to one place?"""
    links = {root, value, *(node.outputs[0] for node in context.chains[value].nodes)}
    return all(len(context.view.users[link]) == 1 for link in links)
