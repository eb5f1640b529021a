"""Names of parameter leaves, written as one would reach for them in Python."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NewType

from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from vanishing._types import DEPTH

_FEW = 3  # leaves of a joint name; of more it has the first and the last
_WRAPPERS = (".value", ".raw_value")  # of Flax NNX's variables


def step(key: Any) -> str:
    """One step of a tree path.

    >>> step(DictKey("kernel")), step(DictKey("a b")), step(SequenceKey(3))
    ('.kernel', "['a b']", '[3]')
    >>> step(DictKey("mlp/~/linear_0"))  # as Haiku writes paths
    '.mlp.linear_0'
    """
    match key:
        case DictKey(key=name) if name == DEPTH:
            return DEPTH
        case DictKey(key=name) if isinstance(name, str) and (parts := _parts(name)):
            return "".join(f".{part}" for part in parts)
        case DictKey(key=name):
            return f"[{name!r}]"
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return f"[{index}]"
        case GetAttrKey(name=name):
            return f".{name}"
    return str(key)


def _parts(name: str) -> list[str]:
    """The identifiers that a key is, or is a path of; none for any other text."""
    parts = [part for part in name.split("/") if part != "~"]
    return parts if all(map(str.isidentifier, parts)) else []


def join(prefix: str, path: Sequence[Any], *, as_written: bool = False) -> str:
    """The name of a leaf at a tree path below a prefix.

    Args:
      prefix: what the name begins with.
      path: of the leaf.
      as_written: leave keys that are paths as they are.

    >>> join("", (DictKey("layers"), SequenceKey(0), DictKey("kernel")))
    'layers[0].kernel'
    >>> join("", (DictKey("mlp/linear"),)), join("", (DictKey("mlp/linear"),), as_written=True)
    ('mlp.linear', "['mlp/linear']")
    """
    steps = [
        f"[{key.key!r}]" if as_written and "/" in str(getattr(key, "key", "")) else step(key)
        for key in path
    ]
    if len(steps) > 1 and steps[-1] in _WRAPPERS:
        steps.pop()
    return (prefix + "".join(steps)).removeprefix(".")


def parent(path: Sequence[Any], name: str) -> str:
    """The name of the container of the leaf of this name, or "".

    >>> path = (DictKey("layers"), SequenceKey(0), DictKey("kernel"))
    >>> parent(path, "layers[0].kernel"), parent(path[-1:], "kernel")
    ('layers[0]', '')
    """
    steps = [step(key) for key in path]
    if len(steps) > 1 and steps[-1] in _WRAPPERS:
        steps.pop()
    return name.removesuffix(steps[-1]) if steps and name.endswith(steps[-1]) else ""


def indexed(name: str, indices: Iterable[str]) -> str:
    """A template of a name with each index where an axis of depth stands, or after it.

    >>> indexed("hidden[:].kernel", ["{0}"]), indexed("blocks.kernel", ["{0}"])
    ('hidden[{0}].kernel', 'blocks.kernel[{0}]')
    """
    label = name.replace("{", "{{").replace("}", "}}")
    for template in indices:
        index = f"[{template}]"
        label = label.replace(DEPTH, index, 1) if DEPTH in label else label + index
    return label


def joined(paths: Sequence[str]) -> str:
    """The name of one of some leaves, where nothing says which it is.

    >>> joined(["a", "b"]), joined(["[0]", "[1]", "[2]", "[3]"])
    ('a|b', '[0]|..|[3]')
    """
    return "|".join(paths if len(paths) <= _FEW else (paths[0], "..", paths[-1]))


LeafId = NewType("LeafId", int)  # counts the leaves of all parameters


class Leaf(NamedTuple):
    """A parameter leaf."""

    path: str  # "[:]" in it stands for an axis of depth
    module: str  # the path of the container it is in
    shape: tuple[int, ...]
