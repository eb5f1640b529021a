"""The layer: one definition, three readings."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from vanishing import _arguments
from vanishing._types import PyTree, Spec
from vanishing.meanfield import Signal
from vanishing.meanfield.signals import unknown


class Variables(NamedTuple):
    """The result of a layer's `init`."""

    params: PyTree  # the gradient is taken with respect to these
    state: PyTree  # carried by `apply` from batch to batch (running statistics); often empty


class Applied(NamedTuple):
    """The result of a layer's `apply`."""

    output: Float[jax.Array, "..."]
    state: PyTree


class Init(Protocol):
    """Draws a layer's parameters; only the shape and dtype of `x` are read."""

    def __call__(self, key: PRNGKeyArray, x: Spec) -> Variables: ...


class Apply(Protocol):
    """Maps an input to an output.

    `key` is for layers that are random while training and may be None otherwise; `train` tells
    those layers, and those with running statistics, whether to behave as in training.
    """

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        x: Float[jax.Array | np.ndarray, "..."],
        key: PRNGKeyArray | None = None,
        train: bool = False,
    ) -> Applied: ...


@runtime_checkable
class Propagate(Protocol):
    """Maps the mean-field signal before a layer to the signal after it.

    Raises:
      ValueError: theory cannot follow the layer there; the message names it.
    """

    def __call__(self, signal: Signal) -> Signal: ...


class Structure:
    """The composition of a layer: a `Chain`, a `Sum`, `Gated`, or `layers.recurrent.Recurrent`."""


class Layer(NamedTuple):
    """A pure function of its parameters, read three ways.

    Close over a layer: it holds functions, so it cannot be an argument of `jax.jit`.

    `init(key, x)` returns `(params, state)` for inputs shaped like `x`;
    `apply(params, state, x, key=None, train=False)` returns `(output, state)`;
    `propagate(signal)` maps the mean-field signal before the layer to the signal after it, and is
    None where no mean-field form is known. A layer says which axes of `x` it reads; any axes in
    front of these are a batch.

    `structure` is for code that looks into a network: the layers that a combinator composes, or
    the cell of a recurrent layer. It is None for a layer that is one piece.
    """

    init: Init
    apply: Apply
    propagate: Propagate | None = None
    structure: Structure | None = None

    def __repr__(self) -> str:
        made_by = getattr(self.init, "__qualname__", "").partition(".")[0]
        parts = f" of {len(self.structure.layers)}" if isinstance(self.structure, Chain) else ""
        return f"Layer({made_by}{parts})"


@dataclasses.dataclass(frozen=True)
class Chain(Structure):
    """Layers one after another; a repeated block stands once."""

    layers: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class Sum(Structure):
    """Layers side by side, whose outputs are scaled and added; `serial()` is the bare input."""

    paths: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class Gated(Structure):
    """Layers side by side, whose outputs are mixed by the output of another one, the gate."""

    paths: tuple[Layer, ...]
    gate: Layer


LAYER = "a layer, as `layers.dense(8)` is one"  # in words
NETWORK = "a layer, as `networks.mlp(...)` or `networks.from_flax(module)` is one"  # in words


def require_layer(name: str, value: Any, what: str = LAYER) -> None:
    """Refuse what is no layer.

    Args:
      name: of the argument.
      value: what it is.
      what: the layer that it must be, in words.

    Raises:
      ValueError: with the value and what it must be.
    """
    _arguments.instance(name, value, Layer, what)


@_arguments.checked
def propagate(layer: Layer, signal: Signal) -> Signal:
    """The mean-field signal after a layer.

    Raises:
      ValueError: no mean-field form of it is known; the message names its place.
    """
    if layer.propagate is None:
        raise unknown(
            "no mean-field form of this layer is known; theory reads networks of the layers of "
            "`vanishing.layers` that have one, not modules of Flax or Equinox.",
            signal,
        )
    return layer.propagate(signal)


@_arguments.checked
def output_spec(layer: Layer, variables: Variables, x: Spec) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a layer's output for inputs like `x`, without computing it."""
    return jax.eval_shape(layer.apply, *variables, x).output


@_arguments.checked
def stateless(function: Callable[[Any], Any], propagate: Propagate | None = None) -> Layer:
    """A layer without parameters: `function` applied to its input, and its mean-field form."""

    def init(key, x):
        del key, x  # there is nothing to draw
        return Variables(params={}, state={})

    def apply(params, state, x, key=None, train=False):
        del params, key, train  # the function is fixed
        return Applied(function(x), state)

    return Layer(init, apply, propagate)


@_arguments.checked
def checkpoint(layer: Layer) -> Layer:
    """The same layer, whose activations are computed anew on the way back instead of kept.

    Around a whole `repeat` inside a `repeat`, the activations between the outer blocks are kept:
    those of depth^(1/2) layers where both are that long.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import dense, repeat
    >>> net = repeat(checkpoint(repeat(dense(4), 100)), 100)
    >>> net.init(jax.random.key(0), jnp.ones((8, 4))).params[99][99]["kernel"].shape
    (4, 4)
    """
    require_layer("layer", layer)

    def apply(params, state, x, key=None, train=False):
        def kept(params, state, x, key):
            return layer.apply(params, state, x, key, train)

        return jax.checkpoint(kept)(params, state, x, key)

    return layer._replace(apply=apply)
