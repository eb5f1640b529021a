"""Names of rows: the one grammar of traces, predictions and budgets.

| name | is |
|---|---|
| `blocks[3].up` | a layer: the path of its parameters |
| `blocks[3].up/gelu` | what follows it without parameters: its name, a slash, and the operation |
| `blocks[3]/add` | a sum of signals: the path that the layers of its branch share |
| `blocks[3].up#2` | the second row of that name |
| `cell/tanh[t=7]` | what is in a scan over time, at one of its steps |
| `up[batch=1]` | what is in a map over batches, as of `jax.lax.map`, which hands nothing on |
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from vanishing.probing.axes import Index

_REPEAT = re.compile(r"#\d+")
_STEP = re.compile(r"\[[^\]]*\]|\.?\{[^{}]*\}|\.?[^.\[{]+|.")  # an index, a template, a name


def following(layer: str, op: str) -> str:
    """The name of a row without parameters that follows a layer, or follows none.

    >>> following("blocks[3].up", "gelu"), following("", "gelu")
    ('blocks[3].up/gelu', 'gelu')
    """
    return f"{layer}/{op}" if layer else op


def steps(path: str) -> list[str]:
    """A path in steps.

    >>> steps("a.b[0].c")
    ['a', '.b', '[0]', '.c']
    """
    return _STEP.findall(path)


def shared(paths: Sequence[str]) -> str:
    """The steps that all paths begin with.

    >>> shared(["blocks[3].up.kernel", "blocks[3].up.bias"])
    'blocks[3].up'
    """
    together = zip(*map(steps, paths), strict=False)
    same = itertools.takewhile(lambda pair: len(set(pair)) == 1, together)
    return "".join(pair[0] for pair in same).lstrip(".")


def is_within(path: str, container: str) -> bool:
    """Is a path that of a container, or of something in it?

    >>> is_within("fc1.kernel", "fc1"), is_within("fc10.kernel", "fc1")
    (True, False)
    """
    return path == container or path.startswith((f"{container}.", f"{container}["))


def branch(layers: Sequence[str], model: str) -> str:
    """The path of a branch: what its layers share, or the last where that is no layer.

    Args:
      layers: names of the branch's layers, in forward order.
      model: the path that all parameters share.

    >>> branch(["blocks[3].norm", "blocks[3].up"], ""), branch(["fc1", "fc2"], "")
    ('blocks[3]', 'fc2')
    >>> branch(["layers[0]", "layers[1]"], "")
    'layers[1]'
    """
    paths = [_REPEAT.sub("", layer) for layer in layers]
    path = shared(paths)
    is_list = all(rest.startswith("[") for rest in (p[len(path) :] for p in paths))
    return layers[-1] if not path or is_list or is_within(model, path) else path


def has_index(template: str, axis: int) -> bool:
    """Does a template hold an index along an axis? See `vanishing.probing.axes.Index`."""
    return re.search(rf"\{{{axis}[:}}]", template) is not None


def at(template: str, axis: int, index: int) -> str:
    """A template at an index along one of its axes.

    >>> at("w[{0}][{1}]", 1, 7)
    'w[{0}][7]'
    """
    field = re.compile(rf"\{{{axis}(?::([^{{}}]*))?\}}")
    return field.sub(lambda match: format(Index(index), match[1] or ""), template)


def unique(base: str, lengths: Sequence[int], taken: set[str], suffix: str = "") -> str:
    """A template with the number of its repeat, so that no row has the name of another.

    Args:
      base: the template: "{0}" in it stands for an index along the first of the axes.
      lengths: of the axes.
      taken: the names of the rows before; those of this template are added to it.
      suffix: what its rows' names end with.

    >>> taken = {"w[0]"}
    >>> unique("w[{0}]", [2], taken), sorted(taken)
    ('w[{0}]#2', ['w[0]', 'w[0]#2', 'w[1]#2'])
    """
    for number in itertools.count(1):
        label = base if number == 1 else f"{base}#{number}"
        own = {name + suffix for name in written(label, lengths)}
        if not own & taken:
            taken |= own
            return label
    raise AssertionError("there is always a next number")


def written(label: str, lengths: Sequence[int]) -> set[str]:
    """The names of all rows of a template, at each index along its axes, of these lengths.

    >>> sorted(written("w[{0}]", [2]))
    ['w[0]', 'w[1]']
    """
    sizes = [length if has_index(label, axis) else 1 for axis, length in enumerate(lengths)]
    return {label.format(*map(Index, index)) for index in np.ndindex(*sizes)}


def matches(pattern: str, name: str) -> bool:
    """Does a row's name match a pattern?

    `*` stands for anything within a part, `**` for anything across parts; parts end at a dot or a
    slash. All else, brackets too, stands for itself.

    >>> names = ["blocks[0].up", "blocks[0].up/gelu", "blocks[1].up"]
    >>> [name for name in names if matches("blocks[*].up", name)]
    ['blocks[0].up', 'blocks[1].up']
    >>> [name for name in names if matches("**/gelu", name)]
    ['blocks[0].up/gelu']
    """
    texts = re.split(r"(\*+)", pattern)
    wild = {"*": "[^./]*"}
    regex = "".join(
        wild.get(text, ".*") if text.startswith("*") else re.escape(text) for text in texts
    )
    return re.fullmatch(regex, name, re.DOTALL) is not None


def no_match(argument: str, pattern: str, name: str) -> ValueError:
    """The error for a pattern that matches no row."""
    return ValueError(
        f"{argument} is {pattern!r}, which matches no row; rows are called as {name!r} is, and * "
        "stands for anything within a part, ** for anything across parts."
    )
