"""Combinators: layers one after another, and one layer many times over."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from jax.tree_util import DictKey, KeyPath, register_pytree_with_keys_class

from vanishing import _arguments
from vanishing._types import DEPTH, PyTree
from vanishing.layers.base import Applied, Chain, Layer, Variables, output_spec, require_layer
from vanishing.layers.base import propagate as layers_propagate
from vanishing.meanfield import Gain, PredictedRow, Signal
from vanishing.meanfield.signals import identity_gain, unknown


def serial(*layers: Layer, **named_layers: Layer) -> Layer:
    """One layer after another.

    Args:
      *layers: layers in forward order; parameters and state are then tuples, one entry a layer.
      **named_layers: the same by name; parameters and state are then dicts. Names make
        recognisable paths, such as `hidden.kernel`. Give all layers a name, or none.

    Returns:
      The composed layer; with no layers at all, the identity.

    Raises:
      ValueError: one of them is not a layer, or some have a name and some do not.

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
    for name, layer in zip(named_layers or itertools.count(), chain, strict=False):
        require_layer(f"layer {name}", layer)
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

    places = [name or f"[{i}]" for i, name in enumerate(names)]
    propagate = functools.partial(_propagate_chain, dict(zip(places, chain, strict=True)))
    return Layer(init, apply, propagate, Chain(chain))


def _propagate_chain(chain: Mapping[str, Layer], signal: Signal) -> Signal:
    """The signal after layers, by name, one after another."""
    end = signal.restarted()
    gains, rows = [], []
    for name, layer in chain.items():
        walk = replace(end.walk, path=(*signal.walk.path, name), rows=())
        after = layers_propagate(layer, replace(end.restarted(), walk=walk))
        rows.append(rows_within(end, after))
        gains.append(after.gain)
        end = after
    total = identity_gain(signal.log_q)
    for i in reversed(range(len(chain))):
        rows[i] = [replace(row, gain=row.gain.after(total)) for row in rows[i]]
        total = gains[i].after(total)
    all_rows = signal.walk.rows + tuple(row for layer_rows in rows for row in layer_rows)
    walk = replace(end.walk, path=signal.walk.path, rows=all_rows)
    return replace(end, gain=signal.gain.after(total), walk=walk)


def rows_within(before: Signal, after: Signal) -> tuple[PredictedRow, ...]:
    """The rows within a layer, or its own row if it has none within and changes the signal."""
    fields = ("log_q", "decorrelation", "relative_mean")
    if after.walk.rows or all(getattr(after, f) is getattr(before, f) for f in fields):
        return after.walk.rows
    return (after.row(identity_gain(after.log_q)),)


@_arguments.checked
def repeat(block: Layer, depth: int, *, unroll: bool = False) -> Layer:
    """The same block `depth` times over, each time with parameters of its own.

    Parameters and state are `Stacked`, and `apply` scans over them, so that ten thousand blocks
    compile as fast as ten.

    Args:
      block: a layer whose output has the shape and dtype of its input.
      depth: how many times; at least 1.
      unroll: whether to lay the blocks out in the program instead of looping over them. Steps that
        record nothing are then up to a third faster where blocks are small (width 64 and 128: no
        stack of activations is filled and read), and at depth 50 take about five times as long to
        compile; probed steps gain nothing.

    Raises:
      ValueError: `block` is no layer, `depth` is under 1 or no whole number, or the block changes
        the shape or dtype of its input.

    >>> import jax.numpy as jnp
    >>> from vanishing.layers import dense
    >>> net = repeat(dense(4), 1_000)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> params[999]["kernel"].shape
    (4, 4)
    """
    require_layer("block", block)
    _arguments.whole("depth", depth, 1, owner="repeat")

    def init(key, x):
        first = jax.eval_shape(block.init, key, x)
        require_spec(x, "repeat feeds a block's output to the next", x, block, first)
        # Not vmap: it takes longer to compile, and XLA's batched QR, which orthogonal weights
        # need, waits for ever where two CPU devices run it at once (jaxlib 0.10.2).
        keys = jax.random.split(key, depth)
        params, state = jax.lax.map(lambda key: tuple(block.init(key, x)), keys)
        return Variables(params=Stacked(params), state=Stacked(state))

    def apply(params, state, x, key=None, train=False):
        keys = None if key is None else jax.random.split(key, depth)

        def step(x, layer):
            own_params, own_state, own_key = layer
            output, new_state = block.apply(own_params, own_state, x, own_key, train)
            return output, new_state  # a plain pair: JAX 0.12 takes no subclass of one

        layers = (params.layers, state.layers, keys)
        x, new_state = jax.lax.scan(step, x, layers, length=depth, unroll=unroll)
        return Applied(x, Stacked(new_state))

    return Layer(init, apply, functools.partial(_propagate_repeated, block, depth), Chain((block,)))


def _propagate_repeated(block: Layer, depth: int, signal: Signal) -> Signal:
    """The signal after the same block `depth` times over."""
    start, end = _settled(block, signal.inside(DEPTH))

    def step(carry, _):
        after = layers_propagate(block, carry)
        rows = rows_within(carry, after)
        return _alike(after.restarted(), start), (after.gain, rows)

    last, (gains, rows) = jax.lax.scan(step, start, length=depth)
    last = _alike(last, end)

    def backward(above, gain):
        return gain.after(above), above

    total, above = jax.lax.scan(backward, identity_gain(signal.log_q), gains, reverse=True)
    rows = tuple(replace(row, gain=row.gain.after(_spread(above, row))) for row in rows)
    walk = replace(last.walk, path=signal.walk.path, rows=(*signal.walk.rows, *rows))
    return replace(last, gain=signal.gain.after(total), walk=walk)


def _settled(block: Layer, signal: Signal) -> tuple[Signal, Signal]:
    """The signal as it may stand before any of a block's repetitions, and as it does after."""
    after = jax.eval_shape(lambda s: layers_propagate(block, s), signal)
    if after.shape != signal.shape:
        raise unknown(
            f"repeat feeds a block's output to the next, but the block maps {signal.shape} to "
            f"{after.shape}; end it with a layer of the input's width.",
            signal,
        )
    always_gaussian = signal.gaussian and after.gaussian
    return replace(signal, gaussian=always_gaussian), after


def _alike(signal: Signal, other: Signal) -> Signal:
    """The signal with another one's static fields: a scan's carry keeps its structure."""
    walk = replace(other.walk, rows=signal.walk.rows)
    return replace(signal, gaussian=other.gaussian, walk=walk)


def _spread(above: Gain, row: PredictedRow) -> Gain:
    """The gains above each block, with the axes of depth that the block's own rows have."""
    inner = (1,) * (row.log_q.ndim - 1)
    return Gain(
        above.matrix.reshape(-1, *inner, 4, 4),
        above.log_scale.reshape(-1, *inner),
        above.log_variance.reshape(-1, *inner),
    )


class DepthKey(DictKey):
    """The step of a tree path that enters a `Stacked`: below it, leaves have a depth axis.

    It is a `DictKey`, since tools that look at paths (chex, for one) refuse keys of other kinds.
    """

    def __init__(self):
        """All of them are equal."""
        super().__init__(DEPTH)

    def __str__(self) -> str:
        return DEPTH


@register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Stacked:
    """Parameters (or state) of a repeated block: a tree whose leaves have depth as first axis.

    `stacked[3]` is the tree of the fourth block and `len(stacked)` the depth. Code that must treat
    every layer by itself (a norm or a clip per layer) asks a leaf's path with `depth_axes`.
    """

    layers: PyTree

    def __getitem__(self, index: int) -> PyTree:
        if not jax.tree.leaves(self.layers):
            return self.layers  # without leaves all depths are alike
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


@_arguments.checked
def depth_axes(path: KeyPath) -> int:
    """How many leading axes of the leaf at a tree path are depth: one for every `repeat`."""
    return sum(isinstance(key, DepthKey) for key in path)


def require_spec(like: Any, why: str, x: Any, layer: Layer, variables: Variables) -> None:
    """Refuse a layer whose output does not have the shape and dtype of `like`; `why` it must."""
    output = output_spec(layer, variables, x)
    if (output.shape, output.dtype) != (like.shape, like.dtype):
        raise ValueError(
            f"{why}, but the block maps {x.dtype}{list(x.shape)} to {output.dtype}"
            f"{list(output.shape)}; end it with a layer of width {like.shape[-1]}."
        )
