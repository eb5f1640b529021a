"""Slopes of the elementwise functions that a program's nonlinearities are."""

import contextlib
import math
import re
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vanishing.probing.jaxpr import Atom, Literal, Local, Node, ValueId

_GRID = 1001  # odd, so that 0 is on it
_SPREADING = ("broadcast_in_dim", "convert_element_type")  # makes an array of a single number


def slope(function: Callable, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The slope of an elementwise function at each element: what a cotangent of 1 comes back as."""
    value, back = jax.vjp(function, x)
    return back(jnp.ones_like(value))[0]


def largest_slope(function: Callable, shape: tuple[int, ...], dtype) -> float:
    """The largest slope of an elementwise function, or nan where it has no bound.

    It is computed on a grid over [-10, 10]; a slope that is still growing at the ends has no bound,
    so that no unit can be called saturated.

    Args:
      function: from an array of the given shape to another of the same.
      shape: what it takes.
      dtype: what it takes.
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return float("nan")  # complex numbers have no order that a grid could follow
    if 0 in shape:
        return float("nan")
    grid = np.linspace(-10, 10, _GRID)
    points = np.resize(grid, (math.ceil(_GRID / math.prod(shape)), *shape)).astype(dtype)
    with contextlib.ExitStack() as allowed:
        # What the user forbids is meant for the loss, and not for points that nobody sees.
        allowed.enter_context(jax.transfer_guard("allow"))
        allowed.enter_context(jax.debug_nans(False))
        allowed.enter_context(jax.debug_infs(False))
        try:
            # Compiled ahead, and so run at once, where the loss is only traced as well.
            program = jax.jit(jax.vmap(lambda x: slope(function, x))).lower(points).compile()
            slopes = np.abs(np.asarray(program(points), np.float64))
        except Exception:  # it has a learnt parameter, no rule for batches, or anything else
            return float("nan")
    inner = slopes[np.abs(points) <= 5]
    bounded = np.isfinite(slopes).all() and slopes.max() <= 1.5 * inner.max()
    return float(slopes.max()) if bounded else float("nan")


def signature(local: Local, makers: Mapping[ValueId, Node]) -> Hashable:
    """What two elementwise functions of a program have in common where they are the same.

    Args:
      local: the function.
      makers: the nodes of its frame, by what they make.
    """
    names: dict[Atom, Hashable] = {local.root: "root"}

    def name(atom: Atom) -> Hashable:
        if isinstance(atom, Literal):
            return repr(atom.value)
        maker = makers.get(atom)
        while atom not in names and maker and maker.primitive in _SPREADING:
            (atom,) = maker.inputs
            if isinstance(atom, Literal):
                return repr(atom.value)
            maker = makers.get(atom)
        return names.get(atom, atom)

    steps = []
    for node in local.nodes:
        steps.append((node.primitive, _parameters(node), *map(name, node.inputs)))
        names |= {value: (len(steps), i) for i, value in enumerate(node.outputs)}
    return tuple(steps)


def _parameters(node: Node) -> str:
    """The parameters of an operation as text, without shapes and addresses of objects."""
    params = sorted(node.equation.params.items(), key=lambda item: item[0])
    return re.sub(r"\[[\d,]*\]|0x[0-9a-f]+", "", str(params))
