"""Conversion of layers into Flax's Linen modules."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import DictKey, KeyPath, SequenceKey
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import DEPTH, PyTree
from vanishing.layers import Layer
from vanishing.layers.base import Variables, require_layer

STATE = "batch_stats"  # the collection that holds a layer's state


@_arguments.checked
def to_linen(layer: Layer, name: str | None = None) -> nn.Module:
    """A Linen module that computes what a layer computes, for use by itself or within another.

    Its `__call__` takes `(x, train=False)`. Its `params` are the layer's as nested dicts: an entry
    of a tuple is called `layers_0`, `layers_1`, ..., as in Flax's `Sequential`, and the parameters
    of a `repeat` keep their axis of depth, as those of Flax's `scan` do. The layer's state is in
    the collection `batch_stats`, which a call with `train=True` updates: make it mutable.
    Parameters are drawn from `make_rng("params")`, the layer's key in training from
    `make_rng("dropout")`.

    Args:
      layer: any layer, of this library or of your own.
      name: the name of the module within the one that contains it.

    Raises:
      ValueError: it is no layer.

    >>> from vanishing import networks
    >>> module = to_linen(networks.mlp(3, depth=4, width=8))
    >>> x = jnp.ones((2, 5))
    >>> variables = module.init(jax.random.key(0), x)
    >>> variables["params"]["hidden"]["dense"]["kernel"].shape
    (3, 8, 8)
    >>> module.apply(variables, x).shape
    (2, 3)
    """
    require_layer("layer", layer)
    return LayerModule(layer.init, layer.apply, name=name)


class LayerModule(nn.Module):
    """A layer's `init` and `apply` as a Linen module; `to_linen` makes it."""

    init_layer: Callable[..., Any]
    apply_layer: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool = False) -> Float[Array, "..."]:
        """The layer's output for an input, in training or after it."""
        if self.is_initializing():
            params, state = self.init_layer(self.make_rng("params"), x)
            self._put("params", params)
            self._put(STATE, state)
        else:
            params, state = self._variables(x)
        drawn = train and (self.has_rng("dropout") or self.has_rng("params"))
        key = self.make_rng("dropout") if drawn else None
        output, new_state = self.apply_layer(params, state, x, key, train)
        if train and not self.is_initializing():
            self._put(STATE, new_state)
        return output

    def _put(self, collection: str, tree: PyTree) -> None:
        for name, value in _as_dicts(tree).items():
            self.put_variable(collection, name, value)

    def _variables(self, x) -> Variables:
        """The layer's own trees, filled with the values of the collections."""
        specs = jax.eval_shape(self.init_layer, jax.random.key(0), x)
        return Variables(
            _from_dicts("params", specs.params, self.variables.get("params", {}), x.shape),
            _from_dicts(STATE, specs.state, self.variables.get(STATE, {}), x.shape),
        )


def _as_dicts(tree: PyTree) -> dict[str, Any]:
    """A tree of any containers as nested dicts, without the empty ones."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return unflatten_dict({_steps(path): leaf for path, leaf in leaves})


def _from_dicts(collection: str, spec: PyTree, nested: Mapping[str, Any], shape) -> PyTree:
    """A tree of the structure and shapes of `spec`, with the values of nested dicts.

    Raises:
      ValueError: a value is absent, or has another shape than the input's asks for.
    """
    values: dict[tuple[str, ...], Any] = flatten_dict(nested)

    def value(path, leaf):
        steps = _steps(path)
        name = f"{collection}.{'.'.join(steps)}"
        if steps not in values:
            raise ValueError(f"{name} is absent; give apply the variables that init returned.")
        if jnp.shape(values[steps]) != leaf.shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(values[steps])}; for an input of shape {shape} it "
                f"must be {leaf.shape}."
            )
        return values[steps]

    return jax.tree_util.tree_map_with_path(value, spec)


def _steps(path: KeyPath) -> tuple[str, ...]:
    """The names by which a leaf is reached in nested dicts; an axis of depth has none."""
    steps = []
    for key in path:
        match key:
            case DictKey(key=name) if name != DEPTH:
                steps.append(str(name))
            case SequenceKey(idx=index):
                steps.append(f"layers_{index}")
            case _ if hasattr(key, "name"):
                steps.append(str(key.name))
    return tuple(steps) or ("value",)
