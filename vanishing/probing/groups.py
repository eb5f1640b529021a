"""Groups: one computation for many arrays of one shape, so that there is less to compile."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vanishing._numerics import is_cut
from vanishing._types import PyTree

# XLA takes about 2 ms for every reduction that it compiles, so that summaries of each row on its
# own take several times as long to compile as the network. Rows that are stacked share theirs; but
# a stack is a copy, which a large row is not worth and which memory bounds.
LIMIT = 4 * 2**20  # bytes of a stack
MEMBERS = 256  # items of a stack; to compile one takes time with the square of their number


def in_groups(
    function: Callable[[Any, PyTree], PyTree],
    items: Sequence[PyTree],
    keys: Sequence[Hashable] | None = None,
    limit: int = LIMIT,
) -> tuple[PyTree, np.ndarray]:
    """A function of stacks of rows, of the rows of many items, with few calls.

    Items whose arrays have the same shapes (but for the number of rows) and dtypes, and whose keys
    are equal, are concatenated, in order, as long as the result is within the limit and there are
    not too many of them.

    Args:
      function: of a key and of a tree of arrays with a leading axis of rows; it returns a tree of
        vectors with a number for each, the same tree for all keys.
      items: trees of arrays whose leading axis counts the item's rows; at least one.
      keys: one for each item, hashable; by default all are None.
      limit: bytes of the arrays that are concatenated at most. An item that is larger is on its
        own, without a copy.

    Returns:
      The tree of vectors with a number for each row of all items, and the place of each item's
      first row.

    >>> import jax.numpy as jnp
    >>> items = [jnp.ones((1, 3)), jnp.ones((2, 5)), 2 * jnp.ones((1, 3))]
    >>> sums, starts = in_groups(lambda key, x: x.sum(1), items)
    >>> sums.tolist(), starts.tolist()
    ([3.0, 6.0, 5.0, 5.0], [0, 2, 1])
    """
    keys = keys or [None] * len(items)
    results, starts, total = [], np.zeros(len(items), int), 0
    for key, members in _groups(items, keys, limit):
        trees = [items[i] for i in members]
        stack = jax.tree.map(lambda *x: jnp.concatenate(x), *trees) if trees[1:] else trees[0]
        results.append(function(key, stack))
        for i in members:
            starts[i] = total
            total += _rows(items[i])
    return jax.tree.map(lambda *x: jnp.concatenate(x), *results), starts


def _groups(items, keys, limit: int) -> list[tuple[Any, list[int]]]:
    """The numbers of the items that go together, with their key."""
    alike: dict[tuple, list[list[int]]] = defaultdict(lambda: [[]])
    sizes: dict[tuple, int] = defaultdict(int)
    for i, (item, key) in enumerate(zip(items, keys, strict=True)):
        leaves, structure = jax.tree.flatten(item)
        kind = (key, structure, *map(_kind, leaves))
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        last = alike[kind][-1]
        if last and (sizes[kind] + size > limit or len(last) == MEMBERS):
            alike[kind].append([])
            sizes[kind] = 0
        alike[kind][-1].append(i)
        sizes[kind] += size
    return [(kind[0], members) for kind, groups in alike.items() for members in groups]


def _kind(leaf) -> tuple:
    """What arrays have in common that may be concatenated."""
    return leaf.shape[1:], leaf.dtype, jax.typeof(leaf).sharding if is_cut(leaf) else None


def _rows(item: PyTree) -> int:
    return jax.tree.leaves(item)[0].shape[0]
