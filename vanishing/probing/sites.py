"""Selects the values of a program to record, and names them."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vanishing.probing import equations, jaxpr, row_names, templates, totals
from vanishing.probing.axes import Index
from vanishing.probing.dependence import Dependences, Use
from vanishing.probing.grouping import LayerRow, kind_of, rows_of
from vanishing.probing.jaxpr import Local, Node, Program, ValueId
from vanishing.probing.leaf_names import Leaf, LeafId
from vanishing.probing.naming import Name, name_rows
from vanishing.probing.patterns import SiteKind
from vanishing.probing.reach import RESHAPES


class Site(NamedTuple):
    """A place of a program with a row, or with one row for every iteration of the loops there."""

    label: str  # of the row; "{0}" stands for the index of the outermost loop around it
    op: str
    kind: SiteKind
    param: str  # path of the parameters that it uses, or ""
    scope: str
    source: str  # "path/of/file.py:line" of the user's own code, or ""
    shape: tuple[int, ...]
    dtype: str
    lengths: tuple[int, ...]  # of the loops around it
    at: str = ""  # the source; of a library's code, the line of the user's own that asked for it

    @property
    def names(self) -> list[str]:
        """Of its rows."""
        return [self.label.format(*map(Index, at)) for at in np.ndindex(*self.lengths)]

    @property
    def place(self) -> str:
        """Its op and source line, in few words."""
        line = os.path.basename(self.source) or self.scope
        return f"{self.op} at {line}" if line else self.op


class Selected(NamedTuple):
    """A site and the value that it records."""

    value: ValueId
    site: Site
    local: Local | None  # how the value is computed element by element, if it is
    kernel: str = ""  # a template like a site's label: the one parameter that multiplies the signal


def choose(
    program: Program, dependences: Dependences, leaves: Sequence[Leaf], level: str
) -> list[Selected]:
    """The sites of a program, in the order in which its frames make them.

    Args:
      program: to choose from.
      dependences: of its values.
      leaves: the parameters, by number.
      level: "layer" or "op"; see `vanishing.probe`.
    """
    rows = {value: _input(value, leaf) for value, leaf in dependences.inputs.items()}
    entrances = [row.node for row in rows.values()]
    for frame in jaxpr.frames(program.frame):
        rows |= rows_of(program, dependences, leaves, frame)
    loss = totals.of_loss(program, dependences)
    rows = {value: row for value, row in rows.items() if value not in loss}
    rows = {value: row for value, row in rows.items() if dependences.on_path(value)}
    names = name_rows(program, dependences, leaves, rows)
    if level == "op":
        rows = _operations(program, dependences, rows)
        names = name_rows(program, dependences, leaves, rows, given=names)
    by_path = templates.leaves_of([leaf._replace(module="") for leaf in leaves], "layer")
    return [
        Selected(
            value=value,
            site=_site(program, dependences, rows[value], names[value]),
            local=rows[value].local,
            kernel=_kernel(rows[value], dependences, by_path),
        )
        for node in (*entrances, *(node for _, node in jaxpr.walk(program.frame)))
        for value in node.outputs
        if value in rows and not equations.is_reference(program.specs[value])
    ]


def select(chosen: Sequence[Selected], where: Callable[[Site], bool] | str) -> list[Selected]:
    """Those for which a function is true, or one of whose rows has a name that a pattern matches.

    Raises:
      ValueError: the pattern matches no row.
    """
    if not isinstance(where, str):
        return [row for row in chosen if where(row.site)]
    selected = [
        row for row in chosen if any(row_names.matches(where, name) for name in row.site.names)
    ]
    if chosen and not selected:
        raise row_names.no_match("where", where, chosen[0].site.names[0])
    return selected


def _input(value: ValueId, leaf: LeafId) -> LayerRow:
    """The row of an input that is differentiated."""
    return LayerRow(
        node=jaxpr.entrance(value),
        value=value,
        ops=("input",),
        kind=SiteKind.OTHER,
        uses=frozenset({Use(leaf, value)}),
    )


def _operations(
    program: Program, dependences: Dependences, layers: Mapping[ValueId, LayerRow]
) -> dict[ValueId, LayerRow]:
    """The rows of single operations, given those of layers.

    What only changes a shape or a dtype has none, unless there is nothing else.
    """
    results = [
        (value, node)
        for _, node in jaxpr.walk(program.frame)
        if not node.frames
        for value in node.outputs
        if dependences.on_path(value)
    ]
    kept = [(v, node) for v, node in results if v in layers or node.primitive not in RESHAPES]
    inputs = {value: row for value, row in layers.items() if value in dependences.inputs}
    return inputs | {v: _operation(node, v, dependences) for v, node in kept or results}


def _operation(node: Node, value: ValueId, dependences: Dependences) -> LayerRow:
    """The row of a single operation."""
    return LayerRow(node=node, value=value, ops=(node.primitive,), kind=kind_of(node, dependences))


def _site(program: Program, dependences: Dependences, row: LayerRow, name: Name) -> Site:
    spec, loops = program.specs[row.value], dependences.loops[row.value]
    return Site(
        label=name.label,
        op="+".join(row.ops),
        kind=row.kind,
        param=name.param,
        scope=name.scope,
        source=line_of(row.node.source),
        shape=tuple(spec.shape),
        dtype=str(spec.dtype),
        lengths=tuple(node.loop.length for node in loops if node.loop),
        at=line_of(row.node.seen_from),
    )


def _kernel(row: LayerRow, dependences: Dependences, leaves: templates.Leaves) -> str:
    """The path of the one leaf that what a row takes in is multiplied with, or ""."""
    adds = row.node.primitive in ("add", "add_any", "sub")
    if adds or dependences.is_weight(row.value):
        return ""
    weights = [a for a in row.node.inputs if isinstance(a, int) and dependences.is_weight(a)]
    origins = [origin for value in weights for origin in dependences.origins.of(value)]
    if len(origins) != 1:
        return ""
    return templates.template(origins, leaves, dependences.loops[row.value])


def line_of(source: tuple[str, int] | None) -> str:
    """ "file:line" of a place in the code, or "" where that is unknown."""
    if source is None:
        return ""
    file, line = source
    within = os.path.relpath(file)
    return f"{file if within.startswith(os.pardir) else within}:{line}"
