"""Patterns: what an operation is recognised as, in a table with an example of each.

The tests run the examples. In them `p` holds the square matrices `w` and `v` and the rows `b` and
`scale`, and `x` is a batch of vectors.
"""

import dataclasses
import enum
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vanishing.probing import dependence
from vanishing.probing.dependence import Dependences, Kind, Use
from vanishing.probing.jaxpr import Atom, Frame, Literal, Node, Program, ValueId


class SiteKind(enum.StrEnum):
    """The kind of operation that a row records; a member equals the string that is its value."""

    MATMUL = "matmul"  # a matrix product or a convolution, with its bias
    NONLINEARITY = "nonlinearity"
    NORMALIZATION = "normalization"
    RESIDUAL = "residual"  # the sum of two signals
    OTHER = "other"


class FrameView(NamedTuple):
    """A frame with everything that its operations are recognised by."""

    frame: Frame
    specs: Mapping[ValueId, Any]
    dependences: Dependences
    makers: Mapping[ValueId, Node]
    users: Mapping[ValueId, Sequence[Node]]  # a node stands once for each use

    def shape(self, atom: Atom) -> tuple[int, ...]:
        """The shape of a value; a literal is a scalar."""
        return () if isinstance(atom, Literal) else getattr(self.specs[atom], "shape", ())

    def maker(self, atom: Atom) -> Node | None:
        """The node of this frame that a value comes from, if one does."""
        return None if isinstance(atom, Literal) else self.makers.get(atom)

    def kind(self, atom: Atom) -> Kind:
        """What a value is computed from."""
        return self.dependences.get(atom).kind

    def sensitive(self, atom: Atom) -> bool:
        """Does a change of a parameter change the value differentiably?"""
        return self.dependences.get(atom).sensitive

    def signals(self, node: Node) -> list[ValueId]:
        """The inputs of a node that are signals, one for each use."""
        weights = self.dependences.weights(node)
        return [
            a
            for a in node.inputs
            if isinstance(a, int) and self.kind(a) == Kind.SIGNAL and a not in weights
        ]

    def params(self, node: Node) -> list[Atom]:
        """The inputs of a node that are weights."""
        return list(self.dependences.weights(node))

    def uses(self, node: Node) -> frozenset[Use]:
        """The parameter leaves that a node takes in."""
        return frozenset().union(*(self.dependences.get(a).uses for a in self.params(node)))


def view_of(program: Program, dependences: Dependences, frame: Frame) -> FrameView:
    """A frame of a program with the makers and the users of its values."""
    users: dict[ValueId, list[Node]] = defaultdict(list)
    for node in frame.nodes:
        for atom in node.inputs:
            if not isinstance(atom, Literal):
                users[atom].append(node)
    makers = {value: node for node in frame.nodes for value in node.outputs}
    return FrameView(frame, program.specs, dependences, makers, users)


class Role(enum.Enum):
    """What an operation is in the layer that it belongs to."""

    NORMALIZATION = enum.auto()
    SOFTMAX = enum.auto()
    SUM = enum.auto()
    BIAS_OR_SCALE = enum.auto()
    LOSS = enum.auto()
    ELEMENTWISE = enum.auto()
    LAYER = enum.auto()
    FUNCTION = enum.auto()


@dataclasses.dataclass(frozen=True)
class Chain:
    """How a value follows, element by element, from a root value of its frame."""

    root: ValueId
    nodes: tuple[Node, ...] = ()  # in the order of the frame
    nonlinear: bool = False
    role: Role | None = None  # of the operation that the value comes from


class Context(NamedTuple):
    """What is known of a frame at one of its nodes."""

    view: FrameView
    statistics: Mapping[ValueId, frozenset[Use]]
    chains: Mapping[ValueId, Chain]  # of all values before the node

    def root(self, value: ValueId) -> ValueId:
        """The value that this one follows from element by element."""
        return self.chains[value].root


def is_custom(node: Node, *kinds: str) -> bool:
    """Does a node call a function with a derivative of its own (of one of these kinds)?"""
    return node.equation.primitive.name.startswith(kinds or "custom_")


def is_elementwise_or_view(node: Node) -> bool:
    """Does a node work element by element, or only move elements?"""
    return node.primitive in dependence.LINEAR | dependence.NONLINEAR | dependence.VIEWS


def _is_normalization(node: Node, context: Context) -> bool:
    """A signal multiplied with, or divided by, a statistic."""
    if node.primitive not in ("mul", "div") or len(node.inputs) != 2:
        return False
    return sum(atom in context.statistics for atom in node.inputs) == 1


def _is_softmax(node: Node, context: Context) -> bool:
    """An exponential divided by the sum of the same exponential."""
    if node.primitive != "div" or any(isinstance(a, Literal) for a in node.inputs):
        return False
    top, bottom = (context.view.maker(atom) for atom in node.inputs)
    while bottom and bottom.primitive in dependence.VIEWS:
        bottom = context.view.maker(bottom.inputs[0])
    return bool(
        top
        and bottom
        and top.primitive == "exp"
        and bottom.primitive == "reduce_sum"
        and bottom.inputs[0] == top.outputs[0]
    )


def _is_sum(node: Node, context: Context) -> bool:
    """Two signals of one shape, neither a function of the other element by element, added."""
    view, signals = context.view, context.view.signals(node)
    if node.primitive not in ("add", "add_any") or len(signals) != 2:
        return False
    shape = view.shape(node.outputs[0])
    return (
        shape != ()
        and all(view.sensitive(value) for value in signals)
        and len({context.root(value) for value in signals}) == 2
        and all(view.shape(value) == shape for value in signals)
        and not _factors(signals[0], view) & _factors(signals[1], view)
    )


def _factors(value: ValueId, view: FrameView, depth: int = 8) -> frozenset[Any]:
    """What a value is a multiple of: values, and views of values with how they are taken.

    A sum is a multiple of what both its terms are. So `h + h * gate` is no residual sum, and
    neither are the sums in the derivatives of activation functions.
    """
    own, maker = frozenset({value}), view.maker(value)
    terms = view.signals(maker) if maker and depth else ()
    if maker is None or not terms:
        return own
    first, *others = [_factors(term, view, depth - 1) for term in terms]
    if maker.primitive in ("add", "add_any", "sub"):
        return own.union(*(first & other for other in others))
    if maker.primitive in dependence.LINEAR:  # of a quotient, what is divided
        return own.union(first, *(others if maker.primitive == "mul" else ()))
    if maker.primitive in dependence.VIEWS and not others:
        params = maker.equation.params.items()
        how = [(name, what) for name, what in params if name != "shape"]  # broadcast further later
        taken = str((maker.primitive, maker.outputs.index(value), how))
        return own | {(factor, taken) for factor in first}
    return own


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
    )


def _begins_loss(node: Node, context: Context) -> bool:
    """A function of losses, of a signal that a complete activation function returned."""
    return (
        node.primitive in LOSS_PRIMITIVES
        and _is_elementwise(node, context)
        and any(map(is_signature, context.chains[context.view.signals(node)[0]].nodes))
    )


def _is_layer(node: Node, context: Context) -> bool:
    """Any other operation on a signal or on data with a weight."""
    has_weight = bool(context.view.params(node)) or _takes_a_made_matrix(node, context)
    return has_weight and context.view.sensitive(node.outputs[0])


def _takes_a_made_matrix(node: Node, context: Context) -> bool:
    """A product of a signal with a matrix that was a signal's vector, as hypernetworks make them.

    That of one example is meant for all: where each example has its own, the product has axes of
    examples, as the products of attention do.
    """
    if node.primitive not in dependence.PRODUCTS:
        return False
    numbers = node.equation.params["dimension_numbers"]
    return (node.primitive == "conv_general_dilated" or not numbers[1][0]) and sum(
        _was_a_vector(atom, context.view) for atom in node.inputs[:2]
    ) == 1


def _was_a_vector(atom: Atom, view: FrameView) -> bool:
    """Is a signal a view, scaled or shifted, of one with fewer axes that came through a layer?"""
    while not isinstance(atom, Literal) and view.dependences.get(atom).layered:
        maker = view.maker(atom)
        if maker is None or maker.primitive not in dependence.VIEWS | dependence.LINEAR:
            return False
        if maker.primitive == "reshape" and len(view.shape(maker.inputs[0])) < len(
            view.shape(atom)
        ):
            return view.sensitive(atom)
        atom = next((a for a in maker.inputs if view.dependences.get(a).layered), maker.inputs[0])
    return False


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
        ("dot_general", "normalize+mul+add"),
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
    if node.frames or len(node.outputs) != 1 or node.outputs[0] in context.statistics:
        return None
    if context.view.kind(node.outputs[0]) != Kind.SIGNAL:
        return None
    return next((pattern.role for pattern in PATTERNS if pattern.fits(node, context)), None)


# The primitives that only activation functions contain: an activation is recognised and named by
# the first of these in it. Primitives that losses and statistics contain as well (exp, log,
# products, powers) are left out.
SIGNATURES: Mapping[str, Callable[[jax.Array], jax.Array]] = {  # each with an example
    "logistic": jax.nn.sigmoid,
    "tanh": lambda h: 0.5 * h * (1 + jnp.tanh(0.8 * (h + 0.04 * h**3))),  # GELU as in GPT-2
    "erf": lambda h: 0.5 * h * (1 + jax.lax.erf(h / 2**0.5)),  # GELU
    "erfc": lambda h: 0.5 * h * jax.lax.erfc(-h / 2**0.5),  # GELU as JAX writes it
    "sin": jnp.sin,
    "cos": jnp.cos,
    "max": lambda h: jnp.maximum(h, 0.0),  # ReLU
    "clamp": lambda h: jax.lax.clamp(-1.0, h, 1.0),  # hard tanh
    "select_n": lambda h: jnp.where(h > 0, h, 0.1 * h),  # leaky ReLU
    "min": lambda h: jnp.minimum(h, 6.0),
}

# What a loss does to a network's outputs. After an activation function it begins the loss; on its
# own it may be part of an activation function, such as the cube in GELU.
LOSS_PRIMITIVES = frozenset({"square", "integer_pow", "log", "sqrt", "abs"})

# Functions that are a loss where no layer follows, and an activation function where one does.
LOSS_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {  # each with an example
    "log_sigmoid": jax.nn.log_sigmoid,
    "softplus": jax.nn.softplus,
    "logaddexp": lambda h: jnp.logaddexp(h, -h),
    "xlogy": lambda h: jax.scipy.special.xlogy(h, h),
    "log": jnp.log,
    "log1p": jnp.log1p,
}


def is_signature(node: Node) -> bool:
    """Is this an operation that only activation functions contain?"""
    return node.primitive in SIGNATURES or is_custom(node)
