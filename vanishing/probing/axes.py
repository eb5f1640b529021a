"""Axes of depth: which index of a parameter leaf an index of a value is.

A leaf may be cut, turned, thinned or stacked with others before a scan walks along it, and its
name in a row has to have the leaf's own index, not the scan's.
"""

from typing import Any, NamedTuple

from vanishing.probing.jaxpr import Node


class Along(NamedTuple):
    """Index i along the first axis of a value is index `start + step * i` of the leaf."""

    start: int = 0
    step: int = 1


class At(NamedTuple):
    """The leaf, as a whole, is what stands at one index along the first axis of a value."""

    place: int


Axis = Along | At | None  # None: nothing is known


class Walk(NamedTuple):
    """A loop, by its level, that walks along the next axis of a leaf or of a stack of leaves.

    Level None is no loop but one index, `axis.start`.
    """

    level: int | None
    axis: Along | At

    def template(self) -> str:
        """The leaf's index, as a template of the loops' indices."""
        if self.level is None or not isinstance(self.axis, Along):
            return str(self.axis[0])
        spec = "" if self.axis == Along() else f":{self.axis.start},{self.axis.step}"
        return f"{{{self.level}{spec}}}"


def after(
    axis: Axis, node: Node, position: int, shapes: tuple[Any, Any], elementwise: bool
) -> Axis:
    """What is known of the first axis after an operation.

    Args:
      axis: of the input at this position.
      node: the operation.
      position: of the input.
      shapes: of the input and of the output.
      elementwise: does the operation compute each element from those at the same place?
    """
    before, now = shapes
    name, params = node.primitive, node.equation.params
    if name == "stack" and params["axis"] == 0:
        return At(position)
    if not before or not now:
        return None
    if name == "rev" and 0 in params["dimensions"]:
        return _strided(axis, before[0] - 1, -1)
    if name == "slice":
        strides = params["strides"] or (1,)
        return _strided(axis, params["start_indices"][0], strides[0])
    kept = (
        name in ("copy", "copy_p", "reduce_precision", "sharding_constraint", "reshape")
        or (elementwise and before == now)
        or (name == "transpose" and params["permutation"][0] == 0)
        or (name == "broadcast_in_dim" and params["broadcast_dimensions"][:1] == (0,))
        or (name == "squeeze" and 0 not in params["dimensions"])
        or (name == "rev")
    )
    return axis if kept and before[0] == now[0] else None


def _strided(axis: Axis, start: int, stride: int) -> Axis:
    """The axis of a value whose index i was index `start + stride * i`."""
    if isinstance(axis, Along):
        return Along(axis.start + axis.step * start, axis.step * stride)
    if isinstance(axis, At) and (axis.place - start) % stride == 0:
        return At((axis.place - start) // stride)
    return None


def index(axis: Axis, node: Node, shape: tuple[int, ...]) -> int | None:
    """The index of a leaf that an operation takes out of its first axis, if it takes one."""
    takes = node.primitive == "squeeze" and 0 in node.equation.params["dimensions"]
    return axis.start if takes and isinstance(axis, Along) and shape[0] == 1 else None


class Index(int):
    """An index that a template of a name can put elsewhere: `{0:3,-1}` is 3 minus it.

    >>> "w[{0}] is w[{0:3,-1}], or {0:a|b|c}".format(Index(2))
    'w[2] is w[1], or c'
    """

    def __format__(self, spec: str) -> str:
        if "|" in spec:
            return spec.split("|")[self]
        if "," in spec:
            start, step = map(int, spec.split(","))
            return str(start + step * self)
        return super().__format__(spec)
