"""Selects the values of a program to record, and names them."""

import itertools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from vanishing.probing import equations, jaxpr, leaf_names
from vanishing.probing.axes import At, Walk
from vanishing.probing.dependence import Dependences, Use
from vanishing.probing.grouping import LayerRow, kind_of, rows_of
from vanishing.probing.jaxpr import Local, Node, Program, ValueId
from vanishing.probing.leaf_names import Leaf, LeafId
from vanishing.probing.patterns import SiteKind


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
    if level == "op":
        for _, node in jaxpr.walk(program.frame):
            if not node.frames:
                rows |= {value: _operation(node, value, dependences) for value in node.outputs}
    else:
        for frame in jaxpr.frames(program.frame):
            rows |= rows_of(program, dependences, leaves, frame)
    namer = _Namer(program, dependences, leaves)
    return [
        Selected(value=value, site=namer.site(rows[value]), local=rows[value].local)
        for node in (*entrances, *(node for _, node in jaxpr.walk(program.frame)))
        for value in node.outputs
        if value in rows
        and dependences.on_path(value)
        and not equations.is_reference(program.specs[value])
    ]


def _input(value: ValueId, leaf: LeafId) -> LayerRow:
    """The row of an input that is differentiated."""
    return LayerRow(
        node=jaxpr.entrance(value),
        value=value,
        ops=("input",),
        kind=SiteKind.OTHER,
        uses=frozenset({Use(leaf)}),
    )


def _operation(node: Node, value: ValueId, dependences: Dependences) -> LayerRow:
    """The row of a single operation."""
    return LayerRow(node=node, value=value, ops=(node.primitive,), kind=kind_of(node, dependences))


class _Namer:
    """Names rows by their parameter, else by their scope, else by their source line."""

    def __init__(self, program: Program, dependences: Dependences, leaves: Sequence[Leaf]):
        self.program, self.dependences, self.leaves = program, dependences, leaves

    def site(self, row: LayerRow) -> Site:
        node, loops = row.node, self.dependences.loops[row.value]
        uses = row.uses or frozenset().union(
            *(self.dependences.get(atom).uses for atom in self.dependences.weights(node))
        )
        spec = self.program.specs[row.value]
        source = own_source(node)
        scope = _clean(node.scope)
        param, walks = self.param(uses)
        base = param or scope or os.path.basename(source) or node.primitive
        return Site(
            label=self.named(uses, loops, base) + _places(walks, self.time_like(loops)),
            op="+".join(row.ops),
            kind=row.kind,
            param=param,
            scope=scope,
            source=source,
            shape=tuple(spec.shape),
            dtype=str(spec.dtype),
            lengths=tuple(node.loop.length for node in loops if node.loop),
        )

    def param(self, uses: frozenset[Use]) -> tuple[str, tuple[Walk, ...]]:
        """The path that leaves used together share, and the loops that walk along them."""
        if not uses:
            return "", ()
        levels = max((use.walks for use in uses), key=lambda walks: (len(walks), str(walks)))
        own = [self.leaves[leaf] for leaf in sorted({use.leaf for use in uses})]
        if len(own) == 1:
            module, path = own[0].module, own[0].path
            alone = sum(leaf.path.startswith(module) for leaf in self.leaves) == 1
            return (module if alone and module else path), levels
        widest = max(own, key=lambda leaf: math.prod(leaf.shape))
        return _shared([leaf.path for leaf in own]) or widest.path, levels

    def named(self, uses: frozenset[Use], loops: Sequence[Node], otherwise: str) -> str:
        """A template of what a row is called: a parameter, or one at each index of a stack."""
        param, walks = self.param(uses)
        stacked = next((walk.level for walk in walks if isinstance(walk.axis, At)), None)
        if stacked is None:
            return leaf_names.indexed(param or otherwise, [walk.template() for walk in walks])
        loop = loops[stacked].loop
        assert loop is not None
        at = [
            frozenset(use.without(stacked) for use in uses if use.stands_at(stacked, index))
            for index in range(loop.length)
        ]
        return f"{{{stacked}:{'|'.join(self.named(one, loops, otherwise) for one in at)}}}"

    def time_like(self, loops: Sequence[Node]) -> list[bool]:
        """Which loops walk along no parameter: those over time."""
        return [not self.walks_parameters(node) for node in loops]

    def walks_parameters(self, node: Node) -> bool:
        loop = node.loop
        assert loop is not None
        xs = node.inputs[loop.consts + loop.carry :]
        return any(
            use.axis is not None
            for atom in xs
            if self.dependences.is_weight(atom)
            for use in self.dependences.get(atom).uses
        )


def _steps(path: str) -> list[str]:
    """A path in steps: "a.b[0].c" is "a", ".b", "[0]", ".c"."""
    return path.replace(".", "\0.").replace("[", "\0[").lstrip("\0").split("\0")


def _shared(names: list[str]) -> str:
    """The steps that all paths begin with."""
    together = zip(*map(_steps, names), strict=False)
    same = itertools.takewhile(lambda steps: len(set(steps)) == 1, together)
    return "".join(steps[0] for steps in same).lstrip(".")


def _places(walks: tuple[Walk, ...], time_like: Sequence[bool]) -> str:
    """A template of the indices of the loops that walk along no axis of depth of a parameter."""
    walked = {walk.level for walk in walks}
    return "".join(
        f"[t={{{level}}}]" if is_time else f"[{{{level}}}]"
        for level, is_time in enumerate(time_like)
        if level not in walked
    )


def _clean(scope: str) -> str:
    """A name scope without the marks of the transformations that it went through."""
    parts = [part for part in scope.split("/") if part and "(" not in part]
    return "/".join(part for i, part in enumerate(parts) if parts[i - 1 : i] != [part])


def own_source(node: Node) -> str:
    """ "file:line" of the user's own code that made a node, or "" where that is unknown."""
    if node.source is None:
        return ""
    file, line = node.source
    within = os.path.relpath(file)
    return f"{file if within.startswith(os.pardir) else within}:{line}"
