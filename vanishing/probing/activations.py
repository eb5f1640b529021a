"""Activations: what an elementwise nonlinearity is called, in a user's word.

The tests run the examples of the tables.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vanishing.probing import dependence, equations
from vanishing.probing.dependence import Kind
from vanishing.probing.jaxpr import Atom, Call, Literal, Node, ValueId
from vanishing.probing.views import FrameView

# What users call some primitives and functions of JAX.
WORDS: Mapping[str, str] = {
    "clamp": "clip",
    "hard_silu": "hard_swish",
    "integer_pow": "power",
    "logistic": "sigmoid",
    "max": "maximum",
    "min": "minimum",
    "select_n": "where",
}

# The primitives that only activation functions contain: an activation is recognised and named by
# the first of these in it. Primitives that losses and statistics contain as well (exp, log,
# products, powers) are left out.
SIGNATURES: Mapping[str, Callable[[jax.Array], jax.Array]] = {  # each with an example
    "logistic": jax.nn.sigmoid,
    "tanh": lambda h: jnp.tanh(0.8 * h),
    "erf": jax.lax.erf,
    "erfc": lambda h: 2 - jax.lax.erfc(h),
    "sin": jnp.sin,
    "cos": jnp.cos,
    "max": lambda h: jnp.maximum(h, -1.0),
    "clamp": lambda h: jax.lax.clamp(-1.0, h, 1.0),
    "select_n": lambda h: jnp.where(h > 0, h, 0.5),
    "min": lambda h: jnp.minimum(h, 6.0),
}

# What a loss does to a network's outputs. After an activation function, and where no layer follows,
# it begins the loss; on its own it may be part of an activation function, such as the cube in GELU.
# In front of a layer too one begins anew whose slope at 0 is infinite, which the row before it has
# to show.
LOSS_PRIMITIVES: Mapping[str, bool] = {  # is the slope at 0 infinite?
    "sqrt": True,
    "log": True,
    "abs": False,
    "square": False,
    "integer_pow": False,
}

# Functions that are a loss where no layer follows, and an activation function where one does.
LOSS_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {  # each with an example
    "log_sigmoid": jax.nn.log_sigmoid,
    "softplus": jax.nn.softplus,
    "logaddexp": lambda h: jnp.logaddexp(h, -h),
    "xlogy": lambda h: jax.scipy.special.xlogy(h, h),
    "log": jnp.log,
    "log1p": jnp.log1p,
}

_NAMELESS = ("where",)  # functions of JAX that say nothing of the activation that they are in


def is_custom(node: Node, *kinds: str) -> bool:
    """Does a node call a function with a derivative of its own (of one of these kinds)?"""
    return equations.operation(node.equation).startswith(kinds or "custom_")


def is_signature(node: Node) -> bool:
    """Is this an operation that only activation functions contain?"""
    return node.primitive in SIGNATURES or is_custom(node)


class _Formula(NamedTuple):
    """What an activation is made of."""

    nodes: Sequence[Node]
    view: FrameView

    @property
    def primitives(self) -> frozenset[str]:
        return frozenset(node.primitive for node in self.nodes)

    def any(self, *primitives: str) -> bool:
        """Is one of these in it?"""
        return bool(self.primitives.intersection(primitives))

    def only(self, *primitives: str) -> bool:
        """Is it made of all of these, and otherwise of sums, products and comparisons?"""
        nonlinear = self.primitives - dependence.LINEAR - dependence.PREDICATES
        return nonlinear == set(primitives)

    @property
    def multiplies(self) -> bool:
        """Is the signal multiplied with a function of itself?"""
        return any(n.primitive == "mul" and len(self.view.signals(n)) == 2 for n in self.nodes)

    def has(self, number: float) -> bool:
        """Does this number, as any float type rounds it, stand in it?"""
        numbers = [a.value for node in self.nodes for a in node.inputs if isinstance(a, Literal)]
        return any(abs(float(n) - number) <= 0.01 * number for n in numbers)

    @property
    def is_learnt(self) -> bool:
        """Does a parameter multiply the signal?"""
        return any(n.primitive == "mul" and self.view.params(n) for n in self.nodes)

    @property
    def cuts_at_zero(self) -> bool:
        """Is the larger of the signal and 0 taken?"""
        largest = [atom for node in self.nodes if node.primitive == "max" for atom in node.inputs]
        return 0.0 in [_number(atom, self.view) for atom in largest]


def _number(atom: Atom, view: FrameView) -> float | None:
    """The number that a value is, as it is or broadcast."""
    while not isinstance(atom, Literal):
        maker = view.maker(atom)
        if maker is None or maker.primitive not in ("broadcast_in_dim", "convert_element_type"):
            return None
        atom = maker.inputs[0]
    return float(atom.value)


class Form(NamedTuple):
    """An activation function that is written out, how it is recognised, and examples."""

    word: str
    fits: Callable[[_Formula], bool]
    examples: tuple[Callable[[jax.Array], jax.Array], ...]


FORMS = (  # the first that fits
    Form(
        "gelu",
        lambda f: f.multiplies and (f.any("erf", "erfc") or f.has(0.044715) or f.has(1.702)),
        (
            lambda h: jax.nn.gelu(h, approximate=True),
            lambda h: jax.nn.gelu(h, approximate=False),
            lambda h: 0.5 * h * (1 + jax.lax.erf(h / 2**0.5)),
            lambda h: h * jax.nn.sigmoid(1.702 * h),
        ),
    ),
    Form(
        "silu",
        lambda f: f.multiplies and f.only("logistic"),
        (lambda h: h * jax.nn.sigmoid(h), lambda h: h * jax.nn.sigmoid(2.0 * h)),
    ),
    Form(
        "mish",
        lambda f: f.multiplies and f.any("tanh") and f.any("log1p", "logaddexp"),
        (lambda h: h * jnp.tanh(jax.nn.softplus(h)), lambda h: h * jnp.tanh(jnp.log1p(jnp.exp(h)))),
    ),
    Form(
        "prelu",
        lambda f: f.is_learnt and (f.only("select_n") or f.only("max", "min")),
        (),  # it takes a parameter
    ),
    Form(
        "leaky_relu",
        lambda f: f.only("select_n") and f.any("mul"),
        (lambda h: jnp.where(h > 0, h, 0.1 * h),),
    ),
    Form("relu", lambda f: f.only("max") and f.cuts_at_zero, (lambda h: jnp.maximum(h, 0.0),)),
)


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation function: its name, and the operation that counts in it."""

    word: str
    node: Node


def recognize(value: ValueId, nodes: Sequence[Node], view: FrameView) -> Activation | None:
    """The activation function that a nonlinear chain is; None for arithmetic of a loss.

    The name is that of the outermost jitted function that lies in the chain as a whole, but a form
    that is recognised goes before a function that is only a part of it; or else it is that of the
    operation that counts.

    Args:
      value: the last of the chain.
      nodes: of the chain; none where it is a function with a backward rule of its own.
      view: of the frame.
    """
    nodes = nodes or (view.makers[value],)
    counts = _that_counts(nodes)
    if not is_signature(counts) and _is_arithmetic(value, nodes, view):
        return None
    if not view.sensitive(value) or view.shape(value) == ():
        return None
    call = _outermost_call(counts, nodes, view)
    form = None if call and _is_all(call, nodes, view) else _form(nodes, view)
    word = form or (call.name.lstrip("_") if call else counts.primitive)
    if word in LOSS_FUNCTIONS and value not in view.before_layer:
        return None
    return Activation(WORDS.get(word, word), counts)


def _that_counts(nodes: Sequence[Node]) -> Node:
    """The operation that a chain is named after: one that only activation functions contain."""

    def rank(node: Node) -> int:
        if is_custom(node):
            return 0
        if node.primitive in SIGNATURES:
            return 1 + list(SIGNATURES).index(node.primitive)
        if node.primitive in dependence.LINEAR | dependence.PREDICATES:
            return 99
        order = ("", *LOSS_PRIMITIVES)
        return 50 + (order.index(node.primitive) if node.primitive in order else 0)

    return min(nodes, key=rank)


def _is_arithmetic(value: ValueId, nodes: Sequence[Node], view: FrameView) -> bool:
    """Is a chain without a signature no activation: of a loss, a statistic or a softmax?"""
    formula = _Formula(nodes, view)
    only_reduced = all(user.primitive.startswith("reduce_") for user in view.users[value])
    only_exp = formula.primitives <= {"exp", *dependence.LINEAR} and not formula.multiplies
    return only_reduced or only_exp or value not in view.before_layer


def _outermost_call(counts: Node, nodes: Sequence[Node], view: FrameView) -> Call | None:
    """The outermost jitted function around a node that lies in the chain as a whole."""
    within = {value for node in nodes for value in node.outputs}
    for call in counts.calls:
        name = call.name.lstrip("_")
        signals = {value for value in call.values if view.dependences.of[value].kind == Kind.SIGNAL}
        if signals <= within and name.isidentifier() and name not in _NAMELESS:
            return call
    return None


def _is_all(call: Call, nodes: Sequence[Node], view: FrameView) -> bool:
    """Does a function hold all of a chain but sums, and products with numbers and parameters?"""
    outside = [node for node in nodes if not call.values.issuperset(node.outputs)]
    return all(n.primitive in dependence.LINEAR and len(view.signals(n)) == 1 for n in outside)


def _form(nodes: Sequence[Node], view: FrameView) -> str | None:
    formula = _Formula(nodes, view)
    return next((form.word for form in FORMS if form.fits(formula)), None)
