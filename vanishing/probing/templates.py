"""Templates: what a layer is called at each place of the loops around it, from its origins."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing import leaf_names, row_names
from vanishing.probing.axes import At
from vanishing.probing.jaxpr import Node
from vanishing.probing.leaf_names import Leaf
from vanishing.probing.origins import Origin

_SPECIAL = frozenset("{|}")  # characters that a template with alternatives cannot hold


class Leaves(NamedTuple):
    """The parameters, as names are made of them."""

    all: Sequence[Leaf]
    model: str  # the path that all of them share
    held: Mapping[str, int]  # by path, of a leaf or of anything that holds it: how many leaves
    level: str  # "layer" or "op"


def leaves_of(leaves: Sequence[Leaf], level: str) -> Leaves:
    """The parameters, by number, as names of rows at a level are made of them."""
    paths = [leaf.path for leaf in leaves]
    held = Counter(path for own in paths for path in itertools.accumulate(row_names.steps(own)))
    return Leaves(leaves, row_names.shared(paths) if len(paths) > 1 else "", held, level)


def settled(origins: Sequence[Origin]) -> list[Origin]:
    """The origins of what is used together, without what they contradict one another in."""
    result = []
    mixed = {origin.leaf for origin in origins if origin.mixed}
    for leaf in dict.fromkeys(origin.leaf for origin in origins):
        own = [origin for origin in origins if origin.leaf == leaf]
        is_known = not (leaf in mixed and len(mixed) > 1) and not any(
            _contradict(one, other) for one, other in itertools.combinations(own, 2)
        )
        result += own if is_known else [own[0].anywhere]
    return result


def _contradict(one: Origin, other: Origin) -> bool:
    """Are two parts of one leaf at different indices, at some place?"""
    both = one.here & other.here
    pairs = zip(one.indices, other.indices, strict=False)
    return any((both & (a.numbers != b.numbers)).any() for a, b in pairs)


def path_of(origins: Sequence[Origin], leaves: Leaves) -> str:
    """The path of the leaves that are used together, or of all that may be used.

    It is what their paths share, or the path of the widest of them; of leaves of which it is
    unknown which is used, it is all their paths.
    """
    return _named(origins, leaves)[0]


def _named(origins: Sequence[Origin], leaves: Leaves) -> tuple[str, Sequence[Origin]]:
    """A path, and the origins whose index stands for that of the path."""
    depths = {o.leaf: len(o.indices) for o in sorted(origins, key=lambda o: len(o.indices))}
    own = {leaf: leaves.all[leaf] for leaf in sorted(depths)}
    if len(own) == 1:
        (leaf,) = own.values()
        is_alone = leaves.held[leaf.module] == 1 or leaves.level == "op"
        return (leaf.module if leaf.module and is_alone else leaf.path), origins
    paths = [leaf.path for leaf in own.values()]
    path = row_names.shared(paths)
    if path:
        return path, origins
    chosen = {o.leaf for o in origins if o.mixed or not o.here.all()}
    widest = max(own, key=lambda leaf: math.prod(own[leaf].shape[depths[leaf] :]))
    if widest not in chosen:
        return own[widest].path, [o for o in origins if o.leaf == widest]
    return leaf_names.joined([own[leaf].path for leaf in sorted(chosen)]), ()


def template(origins: Sequence[Origin], leaves: Leaves, loops: Sequence[Node]) -> str:
    """What a layer is called; "{0}" stands for the index of the outermost loop around it.

    Args:
      origins: of its weights, settled.
      leaves: the parameters.
      loops: around it, outermost first.
    """
    levels = sorted(frozenset().union(*(origin.levels for origin in origins)))
    lengths = [node.loop.length for node in loops if node.loop]
    grid = np.indices(lengths).reshape(len(lengths), math.prod(lengths))
    if not math.prod(lengths) or (not levels and not all(o.here.any() for o in origins)):
        return leaf_names.indexed(path_of(origins, leaves), ())
    if all(origin.here.all() for origin in origins):
        path, indexed = _named(origins, leaves)
        indices = [_index_of(axis, grid, lengths) for axis in _deepest(indexed)]
        label = leaf_names.indexed(path, [str(index) for index in indices])
        if None not in indices and all(row_names.has_index(label, level) for level in levels):
            return label
    steps = [level for level in levels if lengths[level] > 1]
    texts = list(_texts(origins, leaves, grid, [loops[level] for level in steps], steps))
    if len(steps) > 2 or any(_SPECIAL.intersection(text) for text in texts):
        return leaf_names.indexed(path_of([o.anywhere for o in origins], leaves), ())
    single = "".join(f"{{{level}:|}}" for level in levels if level not in steps)
    return _alternatives(texts, steps, [lengths[level] for level in steps]) + single


def _deepest(origins: Sequence[Origin]) -> tuple[At, ...]:
    """The longest index of some origins, unless others of its length differ from it."""
    longest = max((origin.indices for origin in origins), key=len, default=())
    same = (o.indices for o in origins if len(o.indices) == len(longest))
    pairs = [pair for index in same for pair in zip(index, longest, strict=True)]
    return longest if all(np.array_equal(a.numbers, b.numbers) for a, b in pairs) else ()


def _index_of(axis: At, grid: np.ndarray, lengths: Sequence[int]) -> str | None:
    """A leaf's index, as a template of one loop's index, if it is a multiple of it."""
    if not axis.levels:
        return str(axis.numbers[0])
    if len(axis.levels) > 1:
        return None
    (level,) = axis.levels
    index, loop = np.broadcast_arrays(axis.numbers, grid[level])
    start = index[0]
    step = index[loop == 1][0] - start if lengths[level] > 1 else 1
    if (index != start + step * loop).any() or step == 0:
        return None
    return f"{{{level}}}" if (start, step) == (0, 1) else f"{{{level}:{start},{step}}}"


def _texts(
    origins: Sequence[Origin], leaves: Leaves, grid: np.ndarray, loops, levels
) -> Iterator[str]:
    """The names at all indices of some loops, of which a repeat has its number."""
    lengths = [node.loop.length for node in loops]
    at = np.full(len(grid), 0)
    taken: dict[str, int] = Counter()
    named = {}
    turns = (range(node.loop.length)[:: -1 if node.loop.reverse else 1] for node in loops)
    for indices in itertools.product(*turns):  # in the order in which they run
        at[levels] = indices
        place = int((grid == at[:, None]).all(0).argmax()) if len(grid) else 0
        text = _text(origins, leaves, place)
        taken[text] += 1
        named[indices] = text if taken[text] == 1 else f"{text}#{taken[text]}"
    return (named[indices] for indices in itertools.product(*map(range, lengths)))


def _text(origins: Sequence[Origin], leaves: Leaves, place: int) -> str:
    """The name at one place."""

    def at(values: np.ndarray):
        return values[place if len(values) > 1 else 0]

    here = [
        origin._replace(
            indices=tuple(At(at(a.numbers)[None]) for a in origin.indices), here=np.ones(1, bool)
        )
        for origin in origins
        if at(origin.here)
    ]
    path, indexed = _named(here or [origin.anywhere for origin in origins], leaves)
    text = leaf_names.indexed(path, (str(axis.numbers[0]) for axis in _deepest(indexed)))
    return text.replace("{{", "{").replace("}}", "}")


def _alternatives(texts: Sequence[str], levels: Sequence[int], lengths: Sequence[int]) -> str:
    """A template of names at all indices of one or two loops."""
    if not levels:
        return texts[0]
    size = len(texts) // lengths[0]
    parts = [texts[i * size : (i + 1) * size] for i in range(lengths[0])]
    inner = [_alternatives(part, levels[1:], lengths[1:]) for part in parts]
    return f"{{{levels[0]}:{'|'.join([*inner, ''])}}}"
