"""Patterns: what an operation is recognised as, in a table with an example of each.

The tests run the examples. In them `p` holds the square matrices `w` and `v` and the rows `b` and
`scale`, and `x` is a batch of vectors.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vanishing.probing import dependence, hypernetworks, norms
from vanishing.probing.activations import LOSS_PRIMITIVES, is_custom
from vanishing.probing.dependence import Kind
from vanishing.probing.jaxpr import Atom, Literal, Node, ValueId
from vanishing.probing.norms import Statistic
from vanishing.probing.views import FrameView


class SiteKind(enum.StrEnum):
    """The kind of operation that a row records; a member equals the string that is its value."""

    MATMUL = "matmul"  # a matrix product or a convolution, with its bias
    NONLINEARITY = "nonlinearity"
    NORMALIZATION = "normalization"
    RESIDUAL = "residual"  # the sum of two signals
    OTHER = "other"


class Role(enum.Enum):
    """What an operation is in the layer that it belongs to."""

    NORMALIZATION = enum.auto()
    SHIFT = enum.auto()
    SOFTMAX = enum.auto()
    LOG_SOFTMAX = enum.auto()
    MAXOUT = enum.auto()
    SUM = enum.auto()
    BIAS_OR_SCALE = enum.auto()
    LOSS = enum.auto()
    ELEMENTWISE = enum.auto()
    LAYER = enum.auto()
    FUNCTION = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """How a value follows, element by element, from a root value of its frame."""

    root: ValueId
    last: Node | None = None  # the operation that the value comes from; None of the root itself
    before: "tuple[Chain, ...]" = ()  # of what the last operation takes in
    nonlinear: bool = False
    activates: bool = False  # holds an operation that only activation functions contain
    role: Role | None = None  # of the operation that the value comes from

    @functools.cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Its operations in the order of the frame; read at the ends of chains alone."""
        members: set[Node] = set()
        chains: list[Chain] = [self]
        while chains:
            chain = chains.pop()
            if chain.last is not None and chain.last not in members:
                members.add(chain.last)
                chains.extend(chain.before)
        return tuple(sorted(members, key=lambda node: node.outputs[0]))


class Context(NamedTuple):
    """What is known of a frame at one of its nodes."""

    view: FrameView
    statistics: Mapping[ValueId, Statistic]
    chains: Mapping[ValueId, Chain]  # of all values before the node

    def root(self, value: ValueId) -> ValueId:
        """The value that this one follows from element by element."""
        return self.chains[value].root

    def origin(self, value: ValueId) -> ValueId:
        """The first value that this one follows from element by element, through any functions."""
        while (root := self.root(value)) != value:
            value = root
        return value

    def is_divisor(self, value: ValueId) -> bool:
        """Is a value a statistic that a signal is divided by, or that was computed from one?"""
        return value in self.statistics and self.statistics[value].divisor


def _is_normalization(node: Node, context: Context) -> bool:
    """A signal multiplied with, or divided by, a statistic."""
    return norms.is_normalization(node, context.view, context.statistics)


def _is_shift(node: Node, context: Context) -> bool:
    """What was normalised, and a statistic: a normalisation in two terms."""
    if node.primitive not in ("add", "sub", "add_any"):
        return False
    shifts = [a for a in node.inputs if isinstance(a, int) and context.is_divisor(a)]
    others = [a for a in context.view.signals(node) if a not in shifts]
    if len(shifts) != 1 or len(others) != 1:
        return False
    return not context.chains[others[0]].nonlinear


def _is_softmax(node: Node, context: Context) -> bool:
    """An exponential divided by the sum of the same exponential, or e to a log-softmax."""
    if node.primitive == "exp":
        inner = context.view.maker(node.inputs[0])
        return bool(inner and _is_log_softmax(inner, context))
    if node.primitive != "div" or any(isinstance(a, Literal) for a in node.inputs):
        return False
    top, total = node.inputs
    summed = _before(total, context.view, dependence.VIEWS)
    while (maker := context.view.maker(top)) and maker.primitive in ("mul", "select_n"):
        signals = context.view.signals(maker)  # a mask, in the sum as well
        if len(signals) != 1 or maker == summed:
            break
        top = signals[0]
    exponential = context.view.maker(top)
    return bool(
        exponential
        and summed
        and exponential.primitive == "exp"
        and summed.primitive == "reduce_sum"
        and summed.inputs[0] == node.inputs[0]
    )


def _is_log_softmax(node: Node, context: Context) -> bool:
    """A signal less the logarithm of the sum of its exponentials."""
    if node.primitive != "sub" or context.view.shape(node.outputs[0]) == ():
        return False
    view = context.view
    log = _before(node.inputs[1], view, dependence.VIEWS)
    total = log and log.primitive == "log" and _before(log.inputs[0], view, dependence.VIEWS)
    exponential = total and total.primitive == "reduce_sum" and view.maker(total.inputs[0])
    if not exponential or exponential.primitive != "exp":
        return False
    return exponential.inputs[0] == node.inputs[0] and node.outputs[0] in view.before_layer


def _before(atom: Atom, view: FrameView, through: frozenset[str]) -> Node | None:
    """The node that a value comes from, through primitives of these names."""
    maker = view.maker(atom)
    while maker and maker.primitive in through:
        maker = view.maker(maker.inputs[0])
    return maker


def _is_maxout(node: Node, context: Context) -> bool:
    """The largest of two signals, or of pieces of one that was cut in two or more."""
    view, signals = context.view, context.view.signals(node)
    if not signals or not view.sensitive(node.outputs[0]) or view.shape(node.outputs[0]) == ():
        return False
    if node.primitive == "max":
        return len(signals) == 2 and len({context.origin(value) for value in signals}) == 2
    if node.primitive != "reduce_max" or node.outputs[0] not in view.before_layer:
        return False
    maker = view.maker(signals[0])
    return bool(maker and maker.primitive == "reshape" and len(node.equation.params["axes"]) == 1)


def _is_sum(node: Node, context: Context) -> bool:
    """Two signals of one shape, neither a function of the other element by element, added."""
    view, signals = context.view, context.view.signals(node)
    if node.primitive not in ("add", "add_any") or len(signals) != 2:
        return False
    shape = view.shape(node.outputs[0])
    return (
        shape != ()
        and all(view.sensitive(value) for value in signals)
        and len({context.origin(value) for value in signals}) == 2
        and all(view.shape(value) == shape for value in signals)
        and view.factors_of(signals[0]).isdisjoint(view.factors_of(signals[1]))
    )


def _is_elementwise(node: Node, context: Context) -> bool:
    """An elementwise function of one root, of parameters and of single numbers."""
    view, signals, params = context.view, context.view.signals(node), context.view.params(node)
    primitives = dependence.LINEAR | dependence.NONLINEAR | dependence.PREDICATES
    if not (node.primitive in primitives or is_custom(node, "custom_jvp")) or not signals:
        return False
    roots = {context.root(value) for value in signals}
    shape = view.shape(node.outputs[0])
    others = [a for a in node.inputs if a not in signals and a not in params]
    return (
        len(roots) == 1
        and all(view.shape(value) == shape for value in (*roots, *signals))
        and all(_is_uniform(atom, view) for atom in others)
    )


def _is_uniform(atom: Atom, view: FrameView) -> bool:
    """One number, as it is or broadcast."""
    if view.kind(atom) != Kind.NOTHING:
        return view.shape(atom) == ()
    while not isinstance(atom, Literal) and view.shape(atom) != ():
        maker = view.maker(atom)
        if maker is None or maker.primitive not in ("broadcast_in_dim", "convert_element_type"):
            return False
        atom = maker.inputs[0]
    return True


def _is_bias_or_scale(node: Node, context: Context) -> bool:
    """A parameter added to, or multiplied with, a signal that goes nowhere else."""
    signals = context.view.signals(node)
    return (
        node.primitive in dependence.LINEAR
        and bool(context.view.params(node))
        and len(signals) == 1
        and len(context.view.users[signals[0]]) == 1
        and _is_elementwise(node, context)
        and not _meets_again(node, signals[0], context)
    )


def _meets_again(node: Node, signal: ValueId, context: Context) -> bool:
    """Is what comes out joined with another function of the same root, as in a PReLU?"""
    view, chain = context.view, context.chains[signal]
    users = view.users[node.outputs[0]]
    if not chain.nonlinear or len(users) != 1:
        return False
    other = [value for value in view.signals(users[0]) if value != node.outputs[0]]
    while len(other) == 1 and other[0] != chain.root:
        maker = view.maker(other[0])
        other = view.signals(maker) if maker and norms.is_elementwise_or_view(maker) else []
    return other == [chain.root]


def _begins_loss(node: Node, context: Context) -> bool:
    """A function of losses, of a signal that a complete activation function returned.

    In front of a layer a power belongs to the activation, as in the square of ReLU.
    """
    return (
        node.primitive in LOSS_PRIMITIVES
        and (LOSS_PRIMITIVES[node.primitive] or node.outputs[0] not in context.view.before_layer)
        and _is_elementwise(node, context)
        and context.chains[context.view.signals(node)[0]].activates
    )


def _is_layer(node: Node, context: Context) -> bool:
    """Any other operation on a signal or on data with a weight."""
    has_weight = bool(context.view.params(node)) or hypernetworks.takes_a_made_matrix(
        node, context.view
    )
    return has_weight and context.view.sensitive(node.outputs[0])


def _is_whole_function(node: Node, context: Context) -> bool:
    """A function with a derivative of its own from one signal to another of the same shape."""
    view, signals = context.view, context.view.signals(node)
    return (
        is_custom(node, "custom_vjp", "custom_jvp")
        and len(signals) == 1
        and view.shape(signals[0]) == view.shape(node.outputs[0]) != ()
    )


class Pattern(NamedTuple):
    """Something that an operation can be, how it is recognised, and the rows of an example."""

    role: Role
    fits: Callable[[Node, Context], bool]
    example: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array]
    ops: tuple[str, ...]
    kinds: tuple[SiteKind, ...]


def _normalized(h: jax.Array) -> jax.Array:
    return (h - h.mean(1, keepdims=True)) * jax.lax.rsqrt(h.var(1, keepdims=True) + 1e-6)


def _in_two_terms(h: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    factor = scale * jax.lax.rsqrt(h.var(0, keepdims=True) + 1e-6)
    return h * factor + (shift - h.mean(0, keepdims=True) * factor)


@jax.custom_vjp
def _straight_through(h: jax.Array) -> jax.Array:
    return jnp.sign(h)


_straight_through.defvjp(lambda h: (jnp.sign(h), None), lambda _, cotangent: (cotangent,))
_MATMUL, _NONLINEARITY = SiteKind.MATMUL, SiteKind.NONLINEARITY

PATTERNS = (  # the first that fits is the role: each is more special than those below it
    Pattern(
        Role.NORMALIZATION,
        _is_normalization,
        lambda p, x: _normalized(x @ p["w"]) * p["scale"][None] + p["b"][None],
        ("dot_general", "layer_norm"),
        (_MATMUL, SiteKind.NORMALIZATION),
    ),
    Pattern(
        Role.SHIFT,
        _is_shift,
        lambda p, x: _in_two_terms(x @ p["w"], p["scale"][None], p["b"][None]),
        ("dot_general", "batch_norm"),
        (_MATMUL, SiteKind.NORMALIZATION),
    ),
    Pattern(
        Role.SOFTMAX,
        _is_softmax,
        lambda p, x: jax.nn.softmax(x @ p["w"]),
        ("dot_general", "softmax"),
        (_MATMUL, _NONLINEARITY),
    ),
    Pattern(
        Role.LOG_SOFTMAX,
        _is_log_softmax,
        lambda p, x: jax.nn.log_softmax(x @ p["w"]) @ p["v"],
        ("dot_general", "log_softmax", "dot_general"),
        (_MATMUL, _NONLINEARITY, _MATMUL),
    ),
    Pattern(
        Role.MAXOUT,
        _is_maxout,
        lambda p, x: jnp.maximum(x @ p["w"], x @ p["v"]),
        ("dot_general", "dot_general", "maxout"),
        (_MATMUL, _MATMUL, _NONLINEARITY),
    ),
    Pattern(
        Role.SUM,
        _is_sum,
        lambda p, x: (lambda h: h + jnp.tanh(h @ p["v"]))(x @ p["w"]),
        ("dot_general", "dot_general", "tanh", "add"),
        (_MATMUL, _MATMUL, _NONLINEARITY, SiteKind.RESIDUAL),
    ),
    Pattern(
        Role.BIAS_OR_SCALE,
        _is_bias_or_scale,
        lambda p, x: x @ p["w"] + p["b"][None],
        ("dot_general+add",),
        (_MATMUL,),
    ),
    Pattern(
        Role.LOSS,
        _begins_loss,
        lambda p, x: jnp.square(jnp.tanh(x @ p["w"])),
        ("dot_general", "tanh"),
        (_MATMUL, _NONLINEARITY),
    ),
    Pattern(
        Role.ELEMENTWISE,
        _is_elementwise,
        lambda p, x: 1.7 * jnp.tanh(0.7 * (x @ p["w"])),
        ("dot_general", "tanh"),
        (_MATMUL, _NONLINEARITY),
    ),
    Pattern(
        Role.LAYER,
        _is_layer,
        lambda p, x: p["w"][jnp.argmax(x, 1)],
        ("gather",),
        (SiteKind.OTHER,),
    ),
    Pattern(
        Role.FUNCTION,
        _is_whole_function,
        lambda p, x: _straight_through(x @ p["w"]) @ p["v"],
        ("dot_general", "straight_through", "dot_general"),
        (_MATMUL, _NONLINEARITY, _MATMUL),
    ),
)


def role_of(node: Node, context: Context) -> Role | None:
    """The role of a node whose one output is a signal; None for every other node."""
    if node.frames or len(node.outputs) != 1 or context.is_divisor(node.outputs[0]):
        return None
    if context.view.kind(node.outputs[0]) != Kind.SIGNAL:
        return None
    return next((pattern.role for pattern in PATTERNS if pattern.fits(node, context)), None)
