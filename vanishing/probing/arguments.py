"""The arguments of a loss as leaves, and what it returned: what is traced, what stays as it is."""

import inspect
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from vanishing._types import PyTree
from vanishing.probing import leaf_names

_FLAGS, _COUNTS, _NUMBERS = (bool, np.bool_), (int, np.integer), (float, complex)
_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_REFS = getattr(jax, "Ref", ())  # mutable arrays


class LossError(TypeError):
    """A loss returned what has no gradient; users see a TypeError, as of `jax.value_and_grad`."""


class NamedLeaf(NamedTuple):
    """A parameter leaf."""

    name: str
    path: Any  # in its tree
    value: Any


class Structure(NamedTuple):
    """How the arguments of a call are made of leaves."""

    positions: tuple[int, ...]  # of the arguments that hold the parameters
    single: bool  # was one position given by itself, and not in a tuple?
    trees: tuple[Any, ...]  # of these arguments
    rest: Any  # the tree of the others

    def call(self, loss: Callable, params: Sequence[Any], others: Sequence[Any]) -> Any:
        """What the loss returns for these leaves."""
        positional, keywords = jax.tree.unflatten(self.rest, others)
        positional = list(positional)
        for position, tree in zip(self.positions, self._trees(params), strict=True):
            positional[position] = tree
        return loss(*positional, **keywords)

    def places(self) -> tuple[list[int], list[int]]:
        """The numbers of the leaves of parameters, and of the others, among all leaves."""
        positional, keywords = self.rest.children()
        counts = [tree.num_leaves for tree in (*positional.children(), keywords)]
        for position, tree in zip(self.positions, self.trees, strict=True):
            counts[position] = tree.num_leaves
        numbers = iter(range(sum(counts)))
        of_argument = [[next(numbers) for _ in range(count)] for count in counts]
        params = [i for position in self.positions for i in of_argument[position]]
        return params, sorted({i for places in of_argument for i in places}.difference(params))

    def grads_like(self, grads: Sequence[Any]) -> PyTree:
        """Gradients as `jax.grad` returns them, from their leaves."""
        rebuilt = self._trees(grads)
        return rebuilt[0] if self.single else tuple(rebuilt)

    def _trees(self, leaves: Sequence[Any]) -> list[PyTree]:
        stream = iter(leaves)
        return [
            jax.tree.unflatten(tree, [next(stream) for _ in range(tree.num_leaves)])
            for tree in self.trees
        ]


class Arguments(NamedTuple):
    """The arguments of one call of a loss, as leaves.

    Of the others, arrays and numbers are traced. Flags and what is neither stay as they are, and so
    does, once tracing has shown it (see `needed`), what the loss needs as a value of Python: these
    are static.
    """

    structure: Structure
    params: tuple[NamedLeaf, ...]
    others: tuple[Any, ...]

    def traced(self, static: frozenset[int]) -> list[Any]:
        """The others but for those of these numbers."""
        return [leaf for i, leaf in enumerate(self.others) if i not in static]

    def completed(self, static: frozenset[int], traced: Sequence[Any]) -> list[Any]:
        """All of the others, with these values in the place of those that are traced."""
        values = iter(traced)
        return [leaf if i in static else next(values) for i, leaf in enumerate(self.others)]

    def names(self, loss: Callable) -> list[str]:
        """Of the others, as the loss calls its arguments."""
        try:
            own = list(inspect.signature(loss).parameters)
        except (TypeError, ValueError):
            own = []
        rest = jax.tree.unflatten(self.structure.rest, self.others)
        names = []
        for (keyword, first, *path), _ in jax.tree.leaves_with_path(rest):
            if keyword.idx == 1:
                name = str(first.key)
            else:
                name = own[first.idx] if first.idx < len(own) else f"args[{first.idx}]"
            names.append(name + jax.tree_util.keystr(tuple(path)))
        return names

    def never_traced(self) -> frozenset[int]:
        """The numbers of the others that stay as they are in any case."""
        return frozenset(i for i, leaf in enumerate(self.others) if traced_as(leaf) is None)

    def needed(self, error: Exception, static: frozenset[int]) -> frozenset[int]:
        """What else should stay as it is, after tracing the loss ended in this error.

        Either the error says on whose values it depends; or counts, then other numbers, then arrays
        are taken. It may be any error: a jitted function refuses a traced value for a
        static argument with a ValueError, and a shape with a TypeError.

        Args:
          error: of tracing with these leaves static.
          static: numbers of the others.

        Returns:
          Numbers of the others; none where nothing can help.
        """
        message = str(error)
        if re.search(r"\bprobed_params\[", message):
            return frozenset()
        arrays = {
            i: leaf
            for i, leaf in enumerate(self.others)
            if i not in static and isinstance(leaf, _ARRAYS) and not isinstance(leaf, Tracer)
        }
        order = [i for i in range(len(self.others)) if i not in static]
        named = {order[int(n)] for n in re.findall(r"\bprobed_others\[(\d+)\]", message)}
        if named & arrays.keys():
            return frozenset(named & arrays.keys())
        for types in (_COUNTS, _NUMBERS, _ARRAYS):
            if numbers := frozenset(i for i, leaf in arrays.items() if isinstance(leaf, types)):
                return numbers
        return frozenset()


def traced_as(leaf: Any) -> Any | None:
    """The type that a leaf of the arguments is traced as; None where it stays as it is."""
    if isinstance(leaf, _FLAGS) or not isinstance(leaf, (*_ARRAYS, _REFS)):
        return None
    try:
        return jax.typeof(leaf)
    except (TypeError, OverflowError):  # text in an array, or a number that fits in none
        return None


class Place(NamedTuple):
    """Stands for a traced value in what a loss returned."""

    number: int
    is_input: bool  # of the others, as it was given; else of the program's outputs


class Returned(NamedTuple):
    """What a loss returned, without what was traced."""

    value: Any  # a number, or a Place
    tree: Any  # of what came beside the value; None without `has_aux`
    aux: tuple[Any, ...]  # its leaves; Places where they were traced

    def rebuild(self, outputs: Sequence[Any], others: Sequence[Any]) -> tuple[Any, Any]:
        """The loss's value and what it returned beside it, with their own types.

        Args:
          outputs: of the program.
          others: all leaves of the arguments without parameters.
        """

        def fill(leaf):
            if not isinstance(leaf, Place):
                return leaf
            return others[leaf.number] if leaf.is_input else outputs[leaf.number]

        aux = None if self.tree is None else jax.tree.unflatten(self.tree, map(fill, self.aux))
        return fill(self.value), aux


def take_apart(output: Any, has_aux: bool, others: Sequence[Any]) -> tuple[list[Any], Returned]:
    """The traced values among what a loss returned, its value first, and the rest of it.

    Args:
      output: what the loss returned.
      has_aux: should it be a pair?
      others: what it was called with beside its parameters, traced.

    Raises:
      LossError: it is no real scalar, or no pair; a TypeError, as `jax.value_and_grad` raises.
    """
    if has_aux and not (isinstance(output, tuple | list) and len(output) == 2):
        raise LossError("the loss must return a pair (value, aux) where has_aux=True.")
    value, aux = output if has_aux else (output, None)
    _require_scalar(value, has_aux)
    leaves, tree = jax.tree.flatten(aux)
    outputs = [value]
    inputs = {id(leaf): i for i, leaf in enumerate(others) if isinstance(leaf, Tracer)}

    def place(leaf):
        if not isinstance(leaf, Tracer):
            return leaf
        if id(leaf) in inputs:
            return Place(inputs[id(leaf)], is_input=True)
        outputs.append(leaf)
        return Place(len(outputs) - 1, is_input=False)

    rest = Returned(
        value=Place(0, is_input=False) if isinstance(value, Tracer) else value,
        tree=tree if has_aux else None,
        aux=tuple(map(place, leaves)),
    )
    return outputs, rest


def read(
    loss: Callable,
    argnums: SupportsIndex | Sequence[SupportsIndex],
    args: tuple,
    kwargs: dict[str, Any],
) -> Arguments:
    """The leaves of a call's arguments.

    Raises:
      TypeError, ValueError: argnums does not fit, or a parameter is no floating-point array.
    """
    positions, single = _positions(argnums, len(args))
    names = _argument_names(loss, len(args))
    places = [
        (position, "" if single else names[position], path, value)
        for position in positions
        for path, value in jax.tree_util.tree_leaves_with_path(args[position])
    ]
    count = Counter(leaf_names.join(prefix, path) for _, prefix, path, _ in places)
    params = []
    for position, prefix, path, value in places:
        is_shared = count[leaf_names.join(prefix, path)] > 1
        name = leaf_names.join(prefix, path, as_written=is_shared) or names[position]
        _require_inexact(name, value)
        params.append(NamedLeaf(name=name, path=path, value=value))
    rest = (tuple(None if i in positions else arg for i, arg in enumerate(args)), kwargs)
    leaves, tree = jax.tree.flatten(rest)
    structure = Structure(
        positions=positions,
        single=single,
        trees=tuple(jax.tree.structure(args[position]) for position in positions),
        rest=tree,
    )
    return Arguments(structure=structure, params=tuple(params), others=tuple(leaves))


def _positions(
    argnums: SupportsIndex | Sequence[SupportsIndex], count: int
) -> tuple[tuple[int, ...], bool]:
    """The positions of the arguments with the parameters, counted from the first."""
    single = isinstance(argnums, SupportsIndex)
    given = tuple(map(operator.index, (argnums,) if single else argnums))
    if not given:
        raise ValueError("argnums is empty; it must name an argument with parameters.")
    if max(given) >= count:
        raise TypeError(f"argnums has {max(given)}, but the loss got {count} positional arguments.")
    if min(given) < -count:
        raise ValueError(
            f"argnums has {min(given)}, but the loss got {count} positional arguments."
        )
    positions = tuple(number % count for number in given)
    if len(set(positions)) < len(positions):
        raise TypeError(f"argnums is {argnums}; it must name each argument once.")
    return positions, single


def _argument_names(loss: Callable, count: int) -> list[str]:
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):  # some callables have no signature
        names = []
    return [names[i] if i < len(names) else f"arg{i}" for i in range(count)]


def _require_inexact(name: str, leaf: Any) -> None:
    if not isinstance(leaf, _ARRAYS):
        kind = f"a {type(leaf).__name__}"
    elif not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        kind = f"of dtype {jnp.result_type(leaf)}"
    else:
        return
    raise TypeError(
        f"the parameter {name} is {kind}; a gradient needs floating-point or complex arrays. Pass "
        "the rest as another argument (equinox.partition and flax.nnx.split part a model in two)."
    )


def _require_scalar(value: Any, has_aux: bool) -> None:
    if isinstance(value, tuple | list) and len(value) == 2 and not has_aux:
        raise LossError("the loss returned a pair; pass has_aux=True if it is (value, aux).")
    if not isinstance(value, _ARRAYS):
        raise LossError(f"the loss returned a {type(value).__name__}; it must be a real scalar.")
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != ():
        raise LossError(f"the loss returned {dtype}{list(shape)}; take a mean or a sum of it.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise LossError(f"the loss is of dtype {dtype}; it must be a real floating number.")
