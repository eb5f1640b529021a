"""Combinators: layers made of layers."""

import contextlib
import dataclasses
from typing import Any

import jax
from jax.tree_util import KeyPath, register_pytree_with_keys_class

from vanishing.layers.base import Applied, Layer, PyTree, Variables, output_spec


def serial(*layers: Layer, **named_layers: Layer) -> Layer:
    """One layer after another.

    Args:
      *layers: layers in forward order; parameters and state are then tuples, one entry a layer.
      **named_layers: the same by name; parameters and state are then dicts. Names make paths that
        a person recognises, such as `hidden.kernel`. Give all layers a name, or none.

    Returns:
      The composed layer; with no layers at all, the identity.

    Raises:
      ValueError: some layers have a name and some do not.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import activation, dense
    >>> net = serial(hidden=dense(16), relu=activation("relu"), output=dense(2))
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> params["output"]["kernel"].shape
    (16, 2)
    """
    if layers and named_layers:
        raise ValueError(
            f"serial got {len(layers)} layers without a name beside {', '.join(named_layers)}; "
            "name all of them, or none."
        )
    chain = tuple(named_layers.values()) if named_layers else layers
    names = tuple(named_layers) or ("",) * len(layers)
    scope = jax.named_scope if named_layers else contextlib.nullcontext

    def collect(entries) -> PyTree:
        return dict(zip(named_layers, entries, strict=True)) if named_layers else tuple(entries)

    def entries_of(tree) -> tuple:
        return tuple(tree[name] for name in named_layers) if named_layers else tree

    def init(key, x):
        variables = []
        for layer, layer_key in zip(chain, jax.random.split(key, len(chain)), strict=True):
            variables.append(layer.init(layer_key, x))
            x = output_spec(layer, variables[-1], x)
        return Variables(
            params=collect(v.params for v in variables), state=collect(v.state for v in variables)
        )

    def apply(params, state, x, key=None, train=False):
        keys = [None] * len(chain) if key is None else jax.random.split(key, len(chain))
        new_state = []
        for name, layer, own_params, own_state, own_key in zip(
            names, chain, entries_of(params), entries_of(state), keys, strict=True
        ):
            with scope(name):
                x, layer_state = layer.apply(own_params, own_state, x, own_key, train)
            new_state.append(layer_state)
        return Applied(x, collect(new_state))

    return Layer(init, apply)


def residual(branch: Layer) -> Layer:
    """A branch beside a skip connection, `x + branch(x)`, with the branch's own parameters.

    Raises:
      ValueError: the branch does not map its input to an output of the same shape.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, eq. 1.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import dense
    >>> block = residual(dense(4))
    >>> params, state = block.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> block.apply(params, state, jnp.ones((8, 4))).output.shape
    (8, 4)
    """

    def init(key, x):
        variables = branch.init(key, x)
        _require_same_spec("residual adds its input to its output", x, branch, variables)
        return variables

    def apply(params, state, x, key=None, train=False):
        output, state = branch.apply(params, state, x, key, train)
        return Applied(x + output, state)

    return Layer(init, apply)


def repeat(block: Layer, depth: int) -> Layer:
    """The same block `depth` times over, each time with parameters of its own.

    Parameters and state are `Stacked`, and `apply` scans over them, so that ten thousand blocks
    compile as fast as ten.

    Args:
      block: a layer whose output has the shape and dtype of its input.
      depth: how many times; at least 1.

    Raises:
      ValueError: `depth` is under 1, or the block changes the shape or dtype of its input.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import dense
    >>> net = repeat(dense(4), 1_000)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> params[999]["kernel"].shape
    (4, 4)
    """
    if depth < 1:
        raise ValueError(f"repeat has depth {depth}; it must be at least 1.")

    def init(key, x):
        first = jax.eval_shape(block.init, key, x)
        _require_same_spec("repeat feeds a block's output to the next", x, block, first)
        params, state = jax.vmap(lambda key: block.init(key, x))(jax.random.split(key, depth))
        return Variables(params=Stacked(params), state=Stacked(state))

    def apply(params, state, x, key=None, train=False):
        keys = None if key is None else jax.random.split(key, depth)

        def step(x, layer):
            own_params, own_state, own_key = layer
            output, new_state = block.apply(own_params, own_state, x, own_key, train)
            return output, new_state  # a plain pair: JAX 0.12 takes no subclass of one

        x, new_state = jax.lax.scan(step, x, (params.layers, state.layers, keys), length=depth)
        return Applied(x, Stacked(new_state))

    return Layer(init, apply)


@dataclasses.dataclass(frozen=True)
class DepthKey:
    """The step of a tree path that enters a `Stacked`: below it, leaves have a depth axis."""

    def __str__(self) -> str:
        return "[:]"


@register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Stacked:
    """Parameters (or state) of a repeated block: a tree whose leaves have depth as first axis.

    `stacked[3]` is the tree of the fourth block and `len(stacked)` the depth. Code that must treat
    every layer by itself (a norm or a clip per layer) asks a leaf's path with `depth_axes`.
    """

    layers: PyTree

    def __getitem__(self, index: int) -> PyTree:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is not among {len(self)} stacked layers.")
        return jax.tree.map(lambda leaf: leaf[index], self.layers)

    def __len__(self) -> int:
        return jax.tree.leaves(self.layers)[0].shape[0]

    def tree_flatten_with_keys(self):
        """JAX's protocol for a pytree that names its children."""
        return ((DepthKey(), self.layers),), None

    @classmethod
    def tree_unflatten(cls, _, children) -> "Stacked":
        """JAX's protocol for a pytree."""
        return cls(*children)


def depth_axes(path: KeyPath) -> int:
    """How many leading axes of the leaf at a tree path are depth: one for every `repeat`."""
    return sum(isinstance(key, DepthKey) for key in path)


def _require_same_spec(why: str, x: Any, layer: Layer, variables: Variables) -> None:
    output = output_spec(layer, variables, x)
    if (output.shape, output.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"{why}, but the block maps {x.dtype}{list(x.shape)} to {output.dtype}"
            f"{list(output.shape)}; end it with a layer of the input's width."
        )
