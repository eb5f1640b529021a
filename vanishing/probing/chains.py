"""Chains: how the values of a frame follow from one another, element by element.

Each function is one pass over a frame; a later pass reads what the earlier ones returned.
"""

from vanishing.probing import dependence, norms, patterns
from vanishing.probing.activations import is_custom, is_signature
from vanishing.probing.jaxpr import Node, ValueId
from vanishing.probing.patterns import Chain, Context, Role
from vanishing.probing.views import FrameView


def context_of(view: FrameView) -> Context:
    """The statistics of a frame and the chain of every value in it."""
    chains = {value: Chain(value) for value in view.frame.inputs}
    context = Context(view, norms.statistics(view), chains)
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
            return Chain(signals[0], node, nonlinear=True, activates=is_signature(node), role=role)
        case Role.FUNCTION:
            last = node if is_custom(node, "custom_jvp") else None
            return Chain(signals[0], last, nonlinear=True, activates=bool(last), role=role)
    return Chain(value, role=role)


def _extended(node: Node, signals: list[ValueId], context: Context) -> Chain:
    """The chains of a node's signals, which have one root, with the node at their end."""
    chains = tuple(context.chains[value] for value in signals)
    is_linear = node.primitive in dependence.LINEAR and (
        len(signals) == 1 or node.primitive in ("add", "sub", "add_any")
    )
    return Chain(
        root=chains[0].root,
        last=node,
        before=chains,
        nonlinear=not is_linear or any(chain.nonlinear for chain in chains),
        activates=is_signature(node) or any(chain.activates for chain in chains),
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
